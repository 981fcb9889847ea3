"""Rows of a local task: JSON Lines, read anew each time, so that no changed file is ever stale."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gritlm.errors import InputError
from gritlm.evaluation import jsonl


def splits(files: Mapping[str, Path]) -> Any:
    """One data set of ``datasets`` for each name.

    Raises:
        InputError: naming the file and the line that cannot be read.
    """
    from datasets import Dataset, DatasetDict

    made = {}
    for name, path in files.items():
        rows = read(path)
        try:
            made[name] = Dataset.from_list(rows)
        except (TypeError, ValueError) as error:  # pyarrow's own errors are among these
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{path}: the rows differ in the type of a column ({reason}); expected the same "
                "columns with the same types in each"
            ) from None
    return DatasetDict(made)


def read(path: Path) -> list[dict[str, Any]]:
    """Rows of a file, all with the columns of the first one.

    Raises:
        InputError: for a file that is missing, empty or no JSON Lines, with ``file:line``.
    """
    rows: list[dict[str, Any]] = []
    for place, line in jsonl.lines(
        path, missing=": no such file; task.yaml names it in data_files"
    ):
        row = jsonl.parsed(line, place)
        if rows and row.keys() != rows[0].keys():
            odd = ", ".join(sorted(row.keys() ^ rows[0].keys()))
            raise InputError(
                f"{place}: other columns than in the first row ({odd}); expected "
                f"{', '.join(rows[0])}"
            )
        rows.append(row)
    if not rows:
        raise InputError(f"{path}: has no rows; expected one a line")
    return rows
