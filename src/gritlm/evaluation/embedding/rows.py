"""Rows of embedding tasks, read from JSON Lines files and checked column by column."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from reprlib import repr as short
from typing import Any

from gritlm import jsonl
from gritlm.errors import InputError
from gritlm.evaluation.tasks.bad_rows import BadRows
from gritlm.lm.tokens import require_text


@dataclass(frozen=True)
class TaskRow:
    """Row of a file.

    Attributes:
        values: values by column.
        place: ``file:line``.
    """

    values: Mapping[str, Any]
    place: str

    def __getitem__(self, column: str) -> Any:
        return self.values[column]


@dataclass(frozen=True)
class Column:
    """Type of the values of a column.

    Attributes:
        kind: description of a correct value, for messages.
        fits: function that returns whether a value is correct.
    """

    kind: str
    fits: Callable[[Any], bool]


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(TEXT.fits, value))


STRING = Column("a text", lambda v: isinstance(v, str))
TEXT = Column("a text that is not blank", lambda v: isinstance(v, str) and bool(v.strip()))
TEXTS = Column("a list of texts, at least one", _texts)
NUMBER = Column("a number", lambda v: _whole(v) or (isinstance(v, float) and isfinite(v)))
LABEL = Column("a text or a whole number", lambda v: TEXT.fits(v) or _whole(v))
BINARY = Column("0 or 1", lambda v: _whole(v) and v in (0, 1))


def read(
    path: Path,
    columns: Mapping[str, Column],
    bad: BadRows,
    check: Callable[[TaskRow], None] | None = None,
    *,
    limit: int | None = None,
) -> list[TaskRow]:
    """Return the usable rows of a file; blank lines are ignored.

    Args:
        path: file to read.
        columns: required columns and the type of their values.
        bad: collector of lines that are not a JSON object, lack a column or have a wrong value.
        check: function that raises ``InputError`` for a row that is unusable for another reason.
        limit: number of usable rows after which to stop; None for all.

    Raises:
        InputError: if the file is missing, empty, not UTF-8 or has mostly unusable rows; for the
            first unusable row, with ``file:line``, if rows may not be left out.
    """

    def usable(line: tuple[str, str]) -> TaskRow:
        row = _row(line[1], line[0], columns)
        if check is not None:
            check(row)
        return row

    rows = bad.keep_usable(jsonl.text_lines(path), usable, path=path, limit=limit)
    if not rows:
        raise InputError(f"{path} has no rows; expected {', '.join(columns)} in each line")
    return rows


def require(place: str, column: str, value: Any, expected: Column) -> None:
    """Check the value of a column.

    Raises:
        InputError: for a wrong value, with ``file:line`` and the column.
    """
    if not expected.fits(value):
        raise InputError(f"{place}: column {column!r} is {short(value)}; expected {expected.kind}")
    for text in value if isinstance(value, list) else [value]:
        if isinstance(text, str):
            require_text(text, f"{place}: column {column!r}")


def _row(line: str, place: str, columns: Mapping[str, Column]) -> TaskRow:
    values = jsonl.record(line, place)
    for column, expected in columns.items():
        if column not in values:
            has = ", ".join(values) or "none"
            raise InputError(f"{place}: no column {column!r}; the row has {has}")
        require(place, column, values[column], expected)
    return TaskRow(values, place)
