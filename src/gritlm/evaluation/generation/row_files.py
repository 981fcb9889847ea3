"""Rows of local generation tasks, read from JSON Lines files without a cache."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gritlm import jsonl
from gritlm.errors import InputError, one_line
from gritlm.evaluation.tasks.bad_rows import BadRows


def splits(files: Mapping[str, Path], bad: BadRows) -> Any:
    """Return a ``DatasetDict`` with the rows of each split.

    Raises:
        InputError: for a file or row that cannot be used, with ``file:line``.
    """
    from datasets import Dataset, DatasetDict

    datasets = {}
    for name, path in files.items():
        rows = read(path, bad)
        try:
            datasets[name] = Dataset.from_list(rows)
        except (TypeError, ValueError) as error:  # pyarrow's own errors are among these
            reason = one_line(error, limit=200)
            raise InputError(
                f"{path}: the rows differ in the type of a column ({reason}); expected the same "
                "columns with the same types in each"
            ) from None
    return DatasetDict(datasets)


def read(path: Path, bad: BadRows) -> list[dict[str, Any]]:
    """Return the rows of a file that have the same columns and types as most of its rows.

    Args:
        path: file to read.
        bad: collector of the other rows. If rows may not be left out, each row must have the
            columns of the first one.

    Raises:
        InputError: if the file is missing, empty or has mostly unusable rows; for the first
            unusable row, with ``file:line``, if rows may not be left out.
    """
    lines = jsonl.text_lines(path, missing=": no such file; task.yaml names it in data_files")
    placed = bad.keep_usable(
        lines, lambda line: (line[0], jsonl.record(line[1], line[0])), path=path
    )
    if not placed:
        raise InputError(f"{path}: has no rows; expected one a line")
    expected = _most_common(placed) if bad.skip else placed[0][1]

    def usable(item: tuple[str, dict[str, Any]]) -> dict[str, Any]:
        _require_alike(*item, expected, types=bad.skip)
        return item[1]

    return bad.keep_usable(placed, usable, path=path)


def _most_common(placed: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """Return the first row with the most frequent columns and types."""
    schemas = Counter(_schema(row) for _, row in placed)
    most = schemas.most_common(1)[0][0]
    return next(row for _, row in placed if _schema(row) == most)


def _schema(row: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((column, _type_name(value)) for column, value in row.items()))


def _type_name(value: Any) -> str:
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
        differ = _type_name(value) != _type_name(expected[column])
        if types and differ and value is not None and expected[column] is not None:
            raise InputError(
                f"{place}: column {column!r} is {_type_name(value)}, in most rows it is "
                f"{_type_name(expected[column])}"
            )
