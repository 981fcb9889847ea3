"""The files that a local task must have, by its type; see :mod:`gritlm.evaluation.tasks.task`.

Only the first rows of each file are read here: a wrong folder is refused before any model is
loaded, a bad row among good ones is not. Every row is checked before it is measured.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from gritlm.errors import InputError, choice
from gritlm.evaluation.results import Half
from gritlm.evaluation.tasks import jsonl

PAIR = ("sentence1", "sentence2")
TEST = "test.jsonl"
YAML = "task.yaml"
_LOOKED_AT = 100  # rows of each file

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
}
WRITING = ("multiple_choice", "loglikelihood", "loglikelihood_rolling", "generate_until")
FILES = {YAML, *(file for layout in LAYOUTS.values() for file in layout)}


def half_of(kind: str) -> Half:
    """The half of the report that a type of task belongs to."""
    if kind in WRITING:
        return "generation"
    return "rag" if kind == "QA" else "embedding"


def told(folder: Path) -> str:
    """The type that a folder's files tell.

    Raises:
        InputError: when they fit no type.
    """
    if (folder / YAML).is_file():
        text = (folder / YAML).read_text(encoding="utf-8")
        found = re.search(r"^output_type:\s*['\"]?(\w+)", text, re.M)
        return found[1] if found else "generate_until"  # as lm-eval does
    for kind, layout in LAYOUTS.items():
        if all((folder / file).is_file() for file in layout) and not _missing(folder, kind):
            return kind
    if (folder / "corpus.jsonl").is_file():
        return "Retrieval"  # so that the check says which of its files is missing
    has = f"{folder / TEST}:1: columns {', '.join(_columns(folder / TEST))}"
    raise InputError(
        f"{has if (folder / TEST).is_file() else f'{folder}: no {TEST}'}; that is no type of task; "
        f"expected {'; '.join(f'{kind}: {_wanted(kind)}' for kind in LAYOUTS)}"
    )


def check(folder: Path, kind: str) -> None:
    """Whether the files of a type are there, with its columns.

    Raises:
        InputError: naming the file, and the column that is missing.
    """
    choice(kind, [*LAYOUTS, *WRITING], name=f"{folder}: type")
    wanted = LAYOUTS.get(kind, {YAML: (), TEST: ()})
    for file in wanted:
        if not (folder / file).is_file():
            raise InputError(f"{folder}: no file {file}; a {kind} task has {' and '.join(wanted)}")
    if missing := _missing(folder, kind):
        file, column = missing
        raise InputError(
            f"{folder / file}:1: no column {column!r}; the row has "
            f"{', '.join(_columns(folder / file)) or 'none'}, a {kind} task needs "
            f"{', '.join(LAYOUTS[kind][file])}"
        )


def _missing(folder: Path, kind: str) -> tuple[str, str] | None:
    """File and column that the first row of a file lacks."""
    for file, columns in LAYOUTS.get(kind, {}).items():
        there = _columns(folder / file, columns)
        for column in columns:
            if column not in there:
                return file, column
    return None


def _columns(file: Path, wanted: Sequence[str] = ()) -> list[str]:
    """Return the columns of the first row, or of the first one that has the wanted ones.

    Raises:
        InputError: for a file without rows, or of whose first rows none can be read.
    """
    lines = list(islice(jsonl.lines(file), _LOOKED_AT))
    if not lines:
        raise InputError(f"{file}: has no rows; expected one a line")
    if file.suffix == ".tsv":
        return lines[0][1].rstrip("\r\n").split("\t")
    found: list[list[str]] = []
    errors: list[InputError] = []
    for place, line in lines:
        try:
            found.append(list(jsonl.parsed(line, place)))
        except InputError as error:
            errors.append(error)
    if not found:
        raise errors[0]
    return next((columns for columns in found if {*wanted} <= {*columns}), found[0])


def _wanted(kind: str) -> str:
    parts = (f"{file} ({', '.join(columns)})" for file, columns in LAYOUTS[kind].items())
    return " and ".join(parts)
