"""Preparation of local tasks for `gritlm eval` from public datasets, byte for byte reproducible.

    python recipes/evaluation/prepare.py DATA OUT [--sample N]

DATA has a folder a set, each with its SOURCE.txt; only sets and rows that nothing is trained on
are made into tasks. OUT gets a folder a task, by halves of the report, and SOURCES.md. With
--sample only some tasks are written, with at most N rows each, of sets that may be copied.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from contents import JUDGED, QUERIES, TEST, Content, Row, counted, extent, sample
from raw import about
from table import TASKS, Made

TEMPLATES = Path(__file__).parent / "tasks"
ATTRIBUTION = Path(__file__).parent / "attribution.md"  # of the tasks in samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, metavar="DATA", help="folder with a folder a data set")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write to")
    parser.add_argument("--sample", type=int, metavar="N", help="few tasks with at most N rows")
    parser.add_argument("--only", nargs="+", metavar="TASK", help="only these tasks")
    chosen = parser.parse_args()
    if chosen.sample is not None and chosen.sample < 1:
        parser.error(f"--sample {chosen.sample}; expected at least 1 row")
    if unknown := sorted(set(chosen.only or ()) - {task.name for task in TASKS}):
        names = ", ".join(task.name for task in TASKS)
        parser.error(f"--only {' '.join(unknown)}: no such task; expected some of {names}")
    tasks = selected(chosen.only, sampled=chosen.sample is not None)
    if missing := sorted({t.folder for t in tasks if not (chosen.data / t.folder).is_dir()}):
        parser.error(f"{chosen.data} has no folder {', '.join(missing)}; expected one a data set")
    for name, count in prepare(chosen.data, chosen.out, tasks, chosen.sample).items():
        sys.stdout.write(f"{count:7} {name}\n")


def selected(names: Sequence[str] | None, *, sampled: bool) -> list[Made]:
    tasks = [task for task in TASKS if names is None or task.name in names]
    return [task for task in tasks if task.sample] if sampled else tasks


def prepare(data: Path, out: Path, tasks: Sequence[Made], limit: int | None) -> dict[str, int]:
    """Write the tasks; return their numbers of evaluation rows by name."""
    counts: dict[str, int] = {}
    for task in tasks:
        try:
            content = task.read(data / task.folder)
        except FileNotFoundError:
            if not task.optional:
                raise
            continue
        if limit is not None:
            content = sample(content, min(limit, task.sample))
        folder = out / task.half / task.name
        write(task, content, data, folder, sampled=limit is not None)
        counts[task.name] = len(content.get(TEST) or content[QUERIES])
    made = [task for task in tasks if task.name in counts]
    text = sources(data, made, counts, sampled=limit is not None)
    (out / "SOURCES.md").write_text(text, encoding="utf-8", newline="\n")
    return counts


def write(task: Made, content: Content, data: Path, folder: Path, *, sampled: bool) -> None:
    """Write all files of a task, replacing existing ones."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    kind = task.type or _template(task.name, folder)
    for name, rows in content.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        text = _judged(rows) if name == JUDGED else _lines(rows)
        path.write_text(text, encoding="utf-8", newline="\n")
    origin = about(data / task.folder)
    description = task.description.format_map(counted(content))
    table = {
        "name": task.name,
        "half": task.half,
        "type": kind,
        "description": f"{description} (a sample: {extent(content)})" if sampled else description,
        "language": task.language,
        "instruction": task.instruction,
        "source": origin["Source"],
        "licence": task.licence or origin["Licence"],
    }
    (folder / "task.toml").write_text(_toml(table), encoding="utf-8", newline="\n")


def sources(data: Path, tasks: Sequence[Made], counts: Mapping[str, int], *, sampled: bool) -> str:
    """Return sources and licences of all tasks as a Markdown table."""
    lines = ["| task | rows | source | licence |", "| --- | ---: | --- | --- |"]
    for task in tasks:
        origin = about(data / task.folder)
        licence = task.licence or origin["Licence"]
        lines.append(f"| {task.name} | {counts[task.name]} | {origin['Source']} | {licence} |")
    parts = ["# What the tasks are made from", "\n".join(lines), CHANGES]
    if sampled:
        parts += [SAMPLED, ATTRIBUTION.read_text(encoding="utf-8").strip()]
    return "\n\n".join(parts) + "\n"


CHANGES = """\
**Changes made.** Every set was brought into the layout of its type of task. The rows that
are measured are in an order that says nothing. White space became one space in questions and
passages of the embedding and RAG tasks. Long articles were cut into pieces, and distractors were
chosen among the passages of the same set."""
SAMPLED = """\
Of each set only some rows are here, with fewer distractors and passages than the whole set has.
Nothing in these files is medical advice."""


def _template(name: str, folder: Path) -> str:
    """Copy the files of a generation task other than rows; return its type."""
    for path in sorted((TEMPLATES / name).iterdir()):
        if path.suffix in (".yaml", ".py"):
            shutil.copyfile(path, folder / path.name)
    text = (folder / "task.yaml").read_text(encoding="utf-8")
    found = re.search(r"^output_type: (\w+)", text, flags=re.MULTILINE)
    assert found is not None, f"{name}: task.yaml says no output_type"
    return found[1]


def _toml(values: Mapping[str, str]) -> str:
    """Return a TOML table; JSON strings are valid TOML strings."""
    lines = (f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items())
    return "".join(f"{line}\n" for line in lines)


def _lines(rows: Sequence[Row]) -> str:
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)


def _judged(rows: Sequence[Row]) -> str:
    lines = [("query-id", "corpus-id", "score"), *(row.values() for row in rows)]
    return "".join("\t".join(map(str, line)) + "\n" for line in lines)


if __name__ == "__main__":
    main()
