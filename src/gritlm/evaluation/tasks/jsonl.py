"""JSON Lines files of local tasks, read line by line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gritlm.errors import InputError


def lines(
    path: Path, *, missing: str = " is missing; the task needs it"
) -> Iterator[tuple[str, str]]:
    """Yield ``file:line`` and text of every line that is not blank.

    Args:
        path: file to read.
        missing: end of the message for a missing file, after the name of the file.

    Raises:
        InputError: if the file is missing or not UTF-8.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{path}:{number}", line
    except FileNotFoundError:
        raise InputError(f"{path}{missing}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 ({error.reason}); convert it") from None


def parsed(line: str, place: str, *, expected: str = "a JSON object a line") -> dict[str, Any]:
    """Parse a line as a JSON object.

    Args:
        line: text of the line.
        place: ``file:line``, for messages.
        expected: description of a correct line, for messages.

    Raises:
        InputError: if the line is not a JSON object.
    """
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InputError(f"{place}: broken JSON ({error}); expected {expected}") from None
    if not isinstance(row, dict):
        raise InputError(f"{place}: {type(row).__name__}; expected {expected}")
    return row
