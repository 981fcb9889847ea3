"""Files that a local task must have, by its type; see :mod:`gritlm.evaluation.tasks.task`.

Only the first rows of each file are read here, to refuse a wrong folder before any model is
loaded. Every single row is checked later, before it is measured.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from gritlm import jsonl
from gritlm.errors import InputError, choice
from gritlm.evaluation.results import Kind

PAIR = ("sentence1", "sentence2")
TEST = "test.jsonl"
YAML = "task.yaml"
_ROWS_CHECKED = 100  # rows of each file

# Type -> file -> columns of each row. A folder without task.toml is of the first type that fits.
LAYOUTS: dict[str, dict[str, tuple[str, ...]]] = {
    "Retrieval": {
        "corpus.jsonl": ("_id", "text"),
        "queries.jsonl": ("_id", "text"),
        "qrels/test.tsv": ("query-id", "corpus-id", "score"),
    },
    "STS": {TEST: (*PAIR, "score")},
    "PairClassification": {TEST: (*PAIR, "label")},
    "Classification": {"train.jsonl": ("text", "label"), TEST: ("text", "label")},
    "Clustering": {TEST: ("text", "label")},
    "Reranking": {TEST: ("query", "positive", "negative")},
    "QA": {TEST: ("question", "answers", "documents")},
    "ImageQA": {TEST: ("image", "question", "answer")},
    "ImageText": {TEST: ("image", "name")},
    "AudioText": {TEST: ("audio", "text")},
}
GENERATION = ("multiple_choice", "loglikelihood", "loglikelihood_rolling", "generate_until")
# Types with images or sound, and the input that they need.
SENSES: dict[str, str] = {"ImageQA": "image", "ImageText": "image", "AudioText": "sound"}
FILES = {YAML, *(file for layout in LAYOUTS.values() for file in layout)}


def kind_of(task_type: str) -> Kind:
    """Return the kind that a type of task belongs to."""
    if task_type in GENERATION:
        return "generation"
    if task_type in SENSES:
        return "senses"
    return "rag" if task_type == "QA" else "embedding"


def guess_type(folder: Path) -> str:
    """Return the type of task that the files of a folder fit.

    Raises:
        InputError: if they fit no type.
    """
    if (folder / YAML).is_file():
        text = (folder / YAML).read_text(encoding="utf-8")
        found = re.search(r"^output_type:\s*['\"]?(\w+)", text, re.M)
        return found[1] if found else "generate_until"  # lm-eval's default
    for task_type, layout in LAYOUTS.items():
        if all((folder / file).is_file() for file in layout) and not _missing(folder, task_type):
            return task_type
    if (folder / "corpus.jsonl").is_file():
        return "Retrieval"  # the check then names the file that is missing
    has = f"{folder / TEST}:1: columns {', '.join(_columns(folder / TEST))}"
    raise InputError(
        f"{has if (folder / TEST).is_file() else f'{folder}: no {TEST}'}; that is no type of task; "
        f"expected {'; '.join(f'{task_type}: {_expected(task_type)}' for task_type in LAYOUTS)}"
    )


def check(folder: Path, task_type: str) -> None:
    """Check that a folder has the files and columns of a type of task.

    Raises:
        InputError: naming the missing file, or the file and the missing column.
    """
    choice(task_type, [*LAYOUTS, *GENERATION], name=f"{folder}: type")
    needed = LAYOUTS.get(task_type, {YAML: (), TEST: ()})
    for file in needed:
        if not (folder / file).is_file():
            raise InputError(
                f"{folder}: no file {file}; a {task_type} task has {' and '.join(needed)}"
            )
    if missing := _missing(folder, task_type):
        file, column = missing
        columns = ", ".join(_columns(folder / file)) or "no columns"
        raise InputError(
            f"{folder / file}:1: no column {column!r}; the row has {columns}, a {task_type} task "
            f"needs {', '.join(LAYOUTS[task_type][file])}"
        )


def _missing(folder: Path, task_type: str) -> tuple[str, str] | None:
    """Return the first file that lacks a column, and the column; None if nothing is missing."""
    for file, columns in LAYOUTS.get(task_type, {}).items():
        there = _columns(folder / file, columns)
        for column in columns:
            if column not in there:
                return file, column
    return None


def _columns(file: Path, wanted: Sequence[str] = ()) -> list[str]:
    """Return the columns of the first row, or of the first row that has the wanted ones.

    Raises:
        InputError: if the file has no rows, or its first rows cannot be read.
    """
    lines = list(islice(jsonl.text_lines(file), _ROWS_CHECKED))
    if not lines:
        raise InputError(f"{file}: has no rows; expected one a line")
    if file.suffix == ".tsv":
        return lines[0][1].split("\t")
    found: list[list[str]] = []
    errors: list[InputError] = []
    for place, line in lines:
        try:
            found.append(list(jsonl.record(line, place)))
        except InputError as error:
            errors.append(error)
    if not found:
        raise errors[0]
    return next((columns for columns in found if {*wanted} <= {*columns}), found[0])


def _expected(task_type: str) -> str:
    parts = (f"{file} ({', '.join(columns)})" for file, columns in LAYOUTS[task_type].items())
    return " and ".join(parts)
