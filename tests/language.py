"""Rules of wording and size for the whole package; `python tests/language.py` prints the counts.

The rules of wording apply to benchmarks, recipes and documentation too. The glossary and the
reasons are in CONTRIBUTING.md.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "gritlm"
SAMPLES = SRC / "evaluation" / "samples"  # data: tasks with their own checks
HISTORY = {"log.md"}  # dated entries keep the words of their time

BANNED_WORDS = (
    "told",
    "said",
    "comes to",
    "came to",
    "anew",
    "beside",
    "nobody",
    "somebody",
    "whoever",
    "is none",
    "are none",
    "gives numbers",
    "at once",
    "afresh",
    "put aside",
    "so many",
)
_BANNED = re.compile(r"\b(?:" + "|".join(BANNED_WORDS) + r")\b", re.IGNORECASE)
# A noun phrase that begins with a pronoun: "what is trained", "who asks", "those that wait".
_PRONOUN_FIRST = re.compile(
    r"^(?:what|who|whoever|those|one|none|that which|nothing)\b(?! of\b)", re.IGNORECASE
)
_CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
_ENTRY = re.compile(r"^\s+[\w*, ]+: +(\S.*)$")
_TEXT_ARGUMENTS = {"help", "description", "summary", "title", "documentation"}

MOST_FILES = 20  # in a folder
MOST_SMALL_MODULES = 40  # under SMALL lines
SMALL = 60
LONGEST_FUNCTION = 60
MOST_PARAMETERS = 7
MOST_WIDE_FUNCTIONS = 7  # with more parameters than that
SAME_NAME = 2  # files of one name; the exceptions are names that every room may have
EVERY_ROOM = {"__init__.py", "errors.py", "config.py"}


def modules() -> dict[Path, ast.Module]:
    """Return the parsed modules of the package, samples excluded."""
    return {
        path: ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(SRC.rglob("*.py"))
        if SAMPLES not in path.parents
    }


def texts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and text of every docstring, help text, description and raised message."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if (doc := ast.get_docstring(node)) is not None:
                yield getattr(node, "lineno", 1), doc
        elif isinstance(node, ast.Call):
            for keyword in node.keywords:
                if keyword.arg in _TEXT_ARGUMENTS:
                    yield from ((node.lineno, text) for text in strings(keyword.value))
        elif isinstance(node, ast.Raise) and node.exc is not None:
            yield from ((node.lineno, text) for text in strings(node.exc))


def strings(node: ast.AST) -> Iterator[str]:
    """Yield the string constants below a node."""
    for each in ast.walk(node):
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            yield each.value


def scripts() -> dict[Path, ast.Module]:
    """Return the parsed modules of benchmarks, recipes and examples."""
    paths = (
        path
        for name in ("benchmarks", "recipes", "examples")
        for path in (ROOT / name).rglob("*.py")
    )
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(paths)}


def notebook_pages() -> Iterator[tuple[Path, int, str]]:
    """Yield path, number of the cell and text of the lines of Markdown in notebooks."""
    for path in sorted((ROOT / "examples").rglob("*.ipynb")):
        for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"], 1):
            if cell["cell_type"] == "markdown":
                prose = _CODE.sub("", "".join(cell["source"]))
                yield from ((path, number, line) for line in prose.splitlines())


def pages() -> Iterator[tuple[Path, int, str]]:
    """Yield path, number and text of the lines of documentation and of comments in run files."""
    yield from notebook_pages()
    for path in [
        ROOT / "README.md",
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "recipes").rglob("*.md"),
        *(ROOT / "examples").rglob("README.md"),
    ]:
        if path.name not in HISTORY:
            text = path.read_text(encoding="utf-8")
            prose = _CODE.sub(lambda code: "\n" * code[0].count("\n"), text)
            yield from ((path, i, line) for i, line in enumerate(prose.splitlines(), 1))
    for path in [*(ROOT / "recipes").rglob("*.toml"), ROOT / "pyproject.toml", ROOT / "Makefile"]:
        for i, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            yield path, i, line.partition("#")[2]


def problems_of_pages() -> list[str]:
    """List banned words in documentation and run files."""
    return [
        f"{path.relative_to(ROOT)}:{number}: {word!r}"
        for path, number, line in pages()
        for word in _BANNED.findall(line)
    ]


def problems_of_words() -> list[str]:
    """List banned words, and noun phrases that begin with a pronoun, in code."""
    found = []
    for path, tree in {**modules(), **scripts()}.items():
        place = path.relative_to(ROOT)
        for line, text in texts(tree):
            found += [f"{place}:{line}: {word!r}" for word in _BANNED.findall(text)]
            first, *rest = text.splitlines() or [""]
            phrases = [first, *(m[1] for each in rest if (m := _ENTRY.match(each)))]
            found += [
                f"{place}:{line}: begins with a pronoun: {phrase[:60]!r}"
                for phrase in phrases
                if _PRONOUN_FIRST.match(phrase)
            ]
    return found


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield every function and method."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the parameters of a function, ``self`` and ``cls`` excluded."""
    given = function.args
    names = [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return len([name for name in names if name not in {"self", "cls"}])


def measured() -> dict[str, tuple[list[str], int]]:
    """Return each rule's findings and how many of them are allowed."""
    trees = modules()
    folders = Counter(path.parent for path in trees)
    names = Counter(path.name for path in trees)
    classes = Counter(
        node.name
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    every = [(path, each) for path, tree in trees.items() for each in functions(tree)]
    lines = {path: len(path.read_text("utf-8").splitlines()) for path in trees}
    sources = [*SRC.rglob("*.py"), *(ROOT / "tests").rglob("*.py"), *ROOT.glob("[be]*/*.py")]
    skip = "# fmt: " + "skip"
    return {
        f"folders with more than {MOST_FILES} files": (
            [f"{folder}: {count}" for folder, count in folders.items() if count > MOST_FILES],
            0,
        ),
        f"modules under {SMALL} lines": (
            [str(p) for p, n in lines.items() if n < SMALL and p.name != "__init__.py"],
            MOST_SMALL_MODULES,
        ),
        f"file names that stand more than {SAME_NAME} times": (
            [n for n, count in names.items() if count > SAME_NAME and n not in EVERY_ROOM],
            0,
        ),
        "formatter skips": ([str(p) for p in sources if skip in p.read_text("utf-8")], 0),
        "duplicate public class names": ([n for n, count in classes.items() if count > 1], 0),
        "banned words": (problems_of_words(), 0),
        "banned words in documentation and run files": (problems_of_pages(), 0),
        f"functions over {LONGEST_FUNCTION} lines": (
            [
                f"{path}:{each.name}"
                for path, each in every
                if (each.end_lineno or 0) - each.lineno >= LONGEST_FUNCTION
            ],
            0,
        ),
        f"functions with over {MOST_PARAMETERS} parameters": (
            [f"{path}:{each.name}" for path, each in every if parameters(each) > MOST_PARAMETERS],
            MOST_WIDE_FUNCTIONS,
        ),
    }


def main() -> int:
    """Print each rule with its count and bound; return 1 if one is broken."""
    status = 0
    for rule, (found, bound) in measured().items():
        print(f"{len(found):5} of at most {bound:3}  {rule}")
        if len(found) > bound or "-v" in sys.argv:
            print(*(f"        {each}" for each in found[:2000]), sep="\n")
        status |= len(found) > bound
    return status


if __name__ == "__main__":
    raise SystemExit(main())
