"""Rows of a local task: JSON Lines, read again each time, so that no changed file is ever stale."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gritlm.errors import InputError
from gritlm.evaluation.tasks import jsonl
from gritlm.evaluation.tasks.bad_rows import BadRows


def splits(files: Mapping[str, Path], bad: BadRows) -> Any:
    """Return one data set of ``datasets`` for each name.

    Raises:
        InputError: naming the file and the line that cannot be read.
    """
    from datasets import Dataset, DatasetDict

    made = {}
    for name, path in files.items():
        rows = read(path, bad)
        try:
            made[name] = Dataset.from_list(rows)
        except (TypeError, ValueError) as error:  # pyarrow's own errors are among these
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{path}: the rows differ in the type of a column ({reason}); expected the same "
                "columns with the same types in each"
            ) from None
    return DatasetDict(made)


def read(path: Path, bad: BadRows) -> list[dict[str, Any]]:
    """Return the rows of a file that have the columns, of the types, that most of them have.

    Args:
        bad: receives the others; where none may be left out, the first row counts for most.

    Raises:
        InputError: for a file that is missing, empty or mostly bad rows; for the first bad row,
            with ``file:line``, when none may be left out.
    """
    lines = jsonl.lines(path, missing=": no such file; task.yaml names it in data_files")
    placed = bad.keep_usable(
        lines, lambda line: (line[0], jsonl.parsed(line[1], line[0])), path=path
    )
    if not placed:
        raise InputError(f"{path}: has no rows; expected one a line")
    expected = _most_common(placed) if bad.skip else placed[0][1]

    def usable(item: tuple[str, dict[str, Any]]) -> dict[str, Any]:
        _require_alike(*item, expected, types=bad.skip)
        return item[1]

    return bad.keep_usable(placed, usable, path=path)


def _most_common(placed: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """Return the first row that has columns and types as most rows have them."""
    kinds = Counter(_kinds(row) for _, row in placed)
    most = kinds.most_common(1)[0][0]
    return next(row for _, row in placed if _kinds(row) == most)


def _kinds(row: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((column, _kind(value)) for column, value in row.items()))


def _kind(value: Any) -> str:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return "number" if whole or isinstance(value, float) else type(value).__name__


def _require_alike(
    place: str, row: Mapping[str, Any], expected: Mapping[str, Any], *, types: bool
) -> None:
    if row.keys() != expected.keys():
        odd = ", ".join(sorted(row.keys() ^ expected.keys()))
        rows = "most rows" if types else "the first row"
        raise InputError(
            f"{place}: other columns than in {rows} ({odd}); expected {', '.join(expected)}"
        )
    for column, value in row.items():
        differ = _kind(value) != _kind(expected[column])
        if types and differ and value is not None and expected[column] is not None:
            raise InputError(
                f"{place}: column {column!r} is {_kind(value)}, in most rows it is "
                f"{_kind(expected[column])}"
            )
