"""Rows of a local task: JSON Lines, read anew each time, so that no changed file is ever stale."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gritlm.errors import InputError


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
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; task.yaml names it in data_files") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error.reason}); convert it") from None
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        row = _parsed(line, f"{path}:{number}")
        if rows and row.keys() != rows[0].keys():
            odd = ", ".join(sorted(row.keys() ^ rows[0].keys()))
            raise InputError(
                f"{path}:{number}: other columns than in the first row ({odd}); expected "
                f"{', '.join(rows[0])}"
            )
        rows.append(row)
    if not rows:
        raise InputError(f"{path}: has no rows; expected one a line")
    return rows


def _parsed(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where}: broken JSON ({error}); expected an object a line") from None
    if not isinstance(row, dict):
        raise InputError(f"{where}: {type(row).__name__}; expected a JSON object a line")
    return row
