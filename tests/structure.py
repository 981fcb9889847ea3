"""Rooms of the package and their files, as docs/structure.md shows them.

`python tests/structure.py` writes the diagram and the tables of the document again.
"""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "gritlm"
DOCUMENT = ROOT / "docs" / "structure.md"
WIDTH = 76

GROUND = {
    "atomic",
    "config",
    "distribution",
    "errors",
    "jsonl",
    "lazy",
    "printable",
    "prompts",
    "runtime",
}
MODEL = GROUND | {"lm", "gritlm"}  # "gritlm" is the public names of the package itself

# Planned rooms are listed too, so that their place is settled before they are built.
MAY_IMPORT: dict[str, set[str]] = {
    "atomic": set(),
    "distribution": set(),
    "errors": {"distribution", "printable"},
    "jsonl": {"errors"},
    "lazy": set(),
    "config": {"errors"},
    "printable": set(),
    "prompts": {"errors"},
    "runtime": {"errors"},
    "lm": GROUND,
    "train": MODEL,
    "rag": MODEL,
    "serve": MODEL | {"rag"},
    "evaluation": MODEL | {"rag"},
    "integrations": MODEL | {"rag"},
    "adapt": MODEL | {"rag", "train", "evaluation"},
    "scale": MODEL | {"rag", "train", "evaluation", "serve", "adapt"},
    "cli": MODEL | {"adapt", "train", "rag", "serve", "evaluation", "scale", "integrations"},
    "gritlm": {"lm", "prompts", "lazy"},
    "__main__": {"cli"},
}


def levels() -> list[list[str]]:
    """Return the rooms that exist, from the ground up; a room imports only lower rooms."""
    exist = {path.stem for path in SRC.iterdir() if path.suffix == ".py" or is_package(path)}
    rooms = {room: below & exist for room, below in MAY_IMPORT.items() if room in exist}
    sorter = TopologicalSorter(rooms)
    sorter.prepare()
    found = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        found.append(ready)
        sorter.done(*ready)
    return found


def diagram() -> str:
    """Draw the levels, the highest first."""
    rows = ["   ".join(level).center(WIDTH).rstrip() for level in reversed(levels())]
    arrow = "|".center(WIDTH).rstrip()
    return "```\n" + f"\n{arrow}\n".join(rows) + "\n```"


def is_package(path: Path) -> bool:
    """Return whether a path is a folder of Python modules."""
    return (path / "__init__.py").is_file()


def first_line(path: Path) -> str:
    """Return the first line of a module's docstring.

    Raises:
        ValueError: for a module without docstring.
    """
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    if not text:
        raise ValueError(f"{path} has no docstring; the structure document shows its first line")
    return text.splitlines()[0].replace("|", "\\|")


def tables() -> str:
    """Return a heading and a table of files for every folder of modules."""
    folders = sorted(path.parent for path in SRC.rglob("__init__.py"))
    return "\n\n".join(table(folder) for folder in folders)


def table(folder: Path) -> str:
    """Return the heading and the table of one folder."""
    name = folder.relative_to(SRC.parent).as_posix()
    lines = [
        f"### `{name}`",
        first_line(folder / "__init__.py"),
        "",
        "| file | contents |",
        "|---|---|",
    ]
    files = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
    return "\n".join([*lines, *(f"| `{path.name}` | {first_line(path)} |" for path in files)])


def between(text: str, name: str, made: str) -> str:
    """Return a text with the lines between two markers replaced.

    Raises:
        ValueError: when the document has no such markers.
    """
    begin = f"<!-- {name} -->\n"
    end = f"<!-- end of {name} -->"
    before, found, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found and found_end):
        raise ValueError(f"{DOCUMENT} has no lines between {begin!r} and {end!r}")
    return before + begin + made + "\n" + end + after


def written() -> str:
    """Return the document as it should be."""
    text = DOCUMENT.read_text(encoding="utf-8")
    return between(between(text, "diagram", diagram()), "files", tables())


if __name__ == "__main__":
    DOCUMENT.write_text(written(), encoding="utf-8")
