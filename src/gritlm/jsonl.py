"""JSON Lines and JSON arrays: bounded lines, parsed one by one; errors name file and line."""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from gritlm.errors import InputError, one_line

OBJECT_A_LINE = "one JSON object a line"
_SPACE = re.compile(r"[ \t\n\r\ufeff]*")
_PIECE = 2**20  # bytes read in one go of the rest of a line that is too long


class Line(NamedTuple):
    """A line that is not blank.

    Attributes:
        number: its number in the file, from 1.
        start: offset of its first byte in the file.
        data: its bytes, without byte order mark and line end.
        too_long: whether the line has more bytes than allowed; ``data`` is its beginning.
    """

    number: int
    start: int
    data: bytes
    too_long: bool = False


def lines(file: IO[bytes], *, max_bytes: int | None = None) -> Iterator[Line]:
    """Yield the lines of a file that are not blank.

    Args:
        file: binary file, at its start.
        max_bytes: most bytes of a line, with its end; None for no limit.
    """
    number = start = 0
    while raw := file.readline() if max_bytes is None else file.readline(max_bytes + 1):
        number += 1
        size = len(raw)
        if max_bytes is not None and size > max_bytes:
            piece = raw
            while piece and not piece.endswith(b"\n"):
                piece = file.readline(_PIECE)
                size += len(piece)
            yield Line(number, start, raw, too_long=True)
        else:
            data = raw.removeprefix(BOM_UTF8)
            if data.strip():
                # With its end, an error at the end of a line would name column 1 of the next line.
                yield Line(number, start + len(raw) - len(data), data.rstrip(b"\r\n"))
        start += size


def text_lines(
    path: Path, *, missing: str = " is missing; restore it"
) -> Iterator[tuple[str, str]]:
    """Yield ``file:line`` and text of the lines of a UTF-8 file that are not blank.

    Args:
        path: file to read.
        missing: end of the message for a missing file, after the name of the file.

    Raises:
        InputError: if the file is missing or a line is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            for line in lines(file):
                place = f"{path}:{line.number}"
                yield place, decode(line.data, place)
    except FileNotFoundError:
        raise InputError(f"{path}{missing}") from None


def decode(data: bytes, place: str = "") -> str:
    """Decode bytes as UTF-8.

    Args:
        data: the bytes of a line.
        place: ``file:line``, for messages; empty for a message that begins with the reason.

    Raises:
        InputError: for other bytes, with the number of the first.
    """
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        byte = f"byte {error.start + 1} (0x{data[error.start]:02x})"
        raise _error(place, f"{byte} is not UTF-8; convert the file to UTF-8") from error


def record(line: str | bytes, place: str = "", *, finite: bool = False) -> dict[str, Any]:
    """Return the JSON object of a line.

    Args:
        line: the line.
        place: ``file:line``, for messages; empty for a message that begins with the reason.
        finite: whether to refuse NaN and Infinity, which are not JSON.

    Raises:
        InputError: if the line is not UTF-8 or not a JSON object.
    """
    found = value(line, place, finite=finite)
    if not isinstance(found, dict):
        raise _error(place, f"{type(found).__name__}; expected {OBJECT_A_LINE}")
    return found


def value(
    line: str | bytes, place: str = "", *, expected: str = OBJECT_A_LINE, finite: bool = False
) -> Any:
    """Return the JSON value of a line.

    Args:
        line: the line.
        place: ``file:line``, for messages; empty for a message that begins with the reason.
        expected: description of a correct line, for messages.
        finite: whether to refuse NaN and Infinity, which are not JSON.

    Raises:
        InputError: if the line is not UTF-8 or broken JSON.
    """
    text = line if isinstance(line, str) else decode(line, place)
    try:
        return parse(text, finite=finite)
    except (ValueError, RecursionError) as error:
        raise _error(place, f"{broken(error)}; expected {expected}") from error


def parse(line: str | bytes, *, finite: bool = False) -> Any:
    """Return the JSON value of a line; cheaper than :func:`value` where errors are not shown.

    Args:
        line: the line.
        finite: whether to refuse NaN and Infinity, which are not JSON.

    Raises:
        ValueError: if the line is not UTF-8 or broken JSON.
        RecursionError: for a value that is nested too deeply.
    """
    text = line if isinstance(line, str) else line.decode()
    return (_FINITE if finite else _PLAIN).decode(text)


def items(text: str) -> Iterator[Any]:
    """Yield the items of a JSON array one by one, without holding all of them in memory.

    Args:
        text: text that begins with ``[``, behind white space.

    Raises:
        JSONDecodeError: for broken JSON, after the items in front of it.
        RecursionError: for an item that is nested too deeply.
    """
    place = behind_space(text, behind_space(text, 0) + 1)
    empty = text.startswith("]", place)
    while not empty:
        item, place = _PLAIN.raw_decode(text, place)
        yield item
        place = behind_space(text, place)
        if text.startswith("]", place):
            break
        if not text.startswith(",", place):
            raise json.JSONDecodeError("Expecting ',' or ']'", text, place)
        place = behind_space(text, place + 1)
    if (end := behind_space(text, place + 1)) < len(text):
        raise json.JSONDecodeError("Extra data behind the array", text, end)


def behind_space(text: str, place: int) -> int:
    """Return the index of the first character from ``place`` on that is not white space."""
    found = _SPACE.match(text, place)
    return place if found is None else found.end()


def broken(error: Exception) -> str:
    """Return the reason of a message about broken JSON, with the column and a line after 1."""
    if not isinstance(error, json.JSONDecodeError):
        return f"broken JSON ({one_line(error)})"
    line = f"line {error.lineno}, " if error.lineno > 1 else ""
    return f"broken JSON ({error.msg} at {line}column {error.colno})"


def broken_file(name: str, error: Exception, *, expected: str) -> InputError:
    """Return the error of a file that is one JSON value, with ``file:line``.

    Args:
        name: name of the file.
        error: error of the JSON decoder for the text of the file.
        expected: description of a correct file.
    """
    if not isinstance(error, json.JSONDecodeError):
        return InputError(f"{name}: {broken(error)}; expected {expected}")
    reason = f"broken JSON ({error.msg} at column {error.colno})"
    return InputError(f"{name}:{error.lineno}: {reason}; expected {expected}")


def _error(place: str, reason: str) -> InputError:
    return InputError(f"{place}: {reason}" if place else reason)


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


_PLAIN = json.JSONDecoder()
_FINITE = json.JSONDecoder(parse_constant=_refuse_constant)
