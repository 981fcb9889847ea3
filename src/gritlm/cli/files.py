"""Input texts from arguments, text files, JSON, tables or stdin.

All input is checked before a model is loaded, so that a broken line is reported immediately.
"""

from __future__ import annotations

import logging
import sys
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_BE, BOM_UTF32_LE
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gritlm.cli import logs, records
from gritlm.cli.options import InputFormat
from gritlm.cli.records import Record
from gritlm.errors import InputError

STDIN = "-"
_MARKS = (
    (BOM_UTF8, "utf-8-sig"),
    (BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark is a prefix of this one
    (BOM_UTF32_BE, "utf-32"),
    (BOM_UTF16_LE, "utf-16"),
    (BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True)
class Item:
    """A text with the id from its record, or None for a text that has only its row number."""

    text: str
    id: str | int | None = None


def from_arguments(texts: Sequence[str]) -> list[Item]:
    """Return the texts given as arguments.

    Raises:
        InputError: for a text that is empty or has undecodable bytes, with its number.
    """
    for number, text in enumerate(texts, start=1):
        _check_text(text, f"text {number} of the command line")
    return [Item(text) for text in texts]


def read_items(source: str, *, input_format: InputFormat, field: str) -> list[Item]:
    """Return the texts of a file (or of stdin for ``-``), in order.

    A text file has one text per line; blank lines are skipped. In JSON lines, a JSON array or a
    table, ``field`` names the field or column with the text. If it is ``text``, the ``title`` of
    the record is prepended, as ``GritLM.encode_corpus`` does. The ``id`` (or ``_id``) is kept.

    Args:
        source: path of the file, or ``-``.
        input_format: format of the file; ``auto`` detects it.
        field: name of the field or column that holds the text.

    Raises:
        InputError: for input that cannot be used, with the file and the line.
    """
    name, data = _read(source)
    text = decode(data, name)
    form = records.format_of(source, text, input_format)
    items = (
        _lines(name, text)
        if form is InputFormat.text
        else [_from_record(record, field) for record in records.read(name, text, form)]
    )
    if not items:
        raise InputError(f"{name} holds no text; expected one text or one JSON object per line")
    return items


def read_prompt() -> str:
    """Return all of stdin as a single text, without the final line end.

    Raises:
        InputError: when stdin is closed, empty or cannot be decoded.
    """
    name, data = _read(STDIN)
    text = decode(data, name).removesuffix("\n").removesuffix("\r")
    _check_text(text, name)
    return text


def stdin_is_piped() -> bool:
    """Return whether stdin is a pipe or a file instead of a terminal."""
    return sys.stdin is not None and not sys.stdin.isatty()


def _read(source: str) -> tuple[str, bytes]:
    if source == STDIN:
        if sys.stdin is None:
            raise InputError("stdin is closed; pipe a text in, or give it as an argument")
        return "stdin", sys.stdin.buffer.read()
    try:
        return source, Path(source).read_bytes()
    except OSError as error:
        raise InputError(
            f"cannot read {source}: {error.strerror}; expected a text file or JSON lines, "
            "or - for stdin"
        ) from error


def decode(data: bytes, place: str) -> str:
    """Decode bytes as UTF-8, or as UTF-16 or UTF-32 if they begin with a byte order mark.

    Args:
        data: the bytes.
        place: name of the input, for messages.

    Raises:
        InputError: for undecodable bytes, with the line and the number of the byte.
    """
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in data:
        raise InputError(
            f"{place} has zero bytes: it is binary, or UTF-16 without a byte order mark; "
            "convert it to UTF-8"
        )
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(_undecodable(place, error)) from error


def _undecodable(place: str, error: UnicodeDecodeError) -> str:
    if error.encoding != "utf-8":
        return (
            f"{place} begins as {error.encoding.upper()}, and byte {error.start + 1} is not; "
            "convert it to UTF-8"
        )
    data = error.object  # without the mark
    line = data.count(b"\n", 0, error.start)
    start = data.rfind(b"\n", 0, error.start) + 1
    where = f"{place}:{line + 1}" if b"\n" in data.rstrip(b"\n") else place
    return (
        f"{where}: byte {error.start - start + 1} (0x{data[error.start]:02x}) is not UTF-8; "
        "convert the text to UTF-8"
    )


def _lines(name: str, text: str) -> list[Item]:
    """Return the lines of a plain text that are not blank."""
    lines = text.removesuffix("\n").split("\n")
    items = [Item(line.removesuffix("\r")) for line in lines if line.strip()]
    if items and (blank := len(lines) - len(items)):
        logging.getLogger(f"{logs.NAME}.cli").warning(
            "%s: %d blank line%s left out", name, blank, "" if blank == 1 else "s"
        )
    return items


def _from_record(record: Record, field: str) -> Item:
    values = record.values
    if isinstance(values, str) and field == "text":
        _check_text(values, record.place)
        return Item(values)
    if not isinstance(values, dict):
        raise InputError(f"{record.place}: {_kind(values)}; expected a JSON object")
    if field not in values:
        raise InputError(
            f"{record.place}: no field {field!r}; the record has "
            f"{', '.join(map(repr, values)) or 'no field at all'}; name the right one with --field"
        )
    text = _string(values, field, record.place)
    if field == "text":
        title = _string(values, "title", record.place) if values.get("title") is not None else ""
        text = f"{title} {text}".strip()
    _check_text(text, f"{record.place}: field {field!r}")
    key = values.get("id", values.get("_id"))
    if key is not None and (isinstance(key, bool) or not isinstance(key, str | int)):
        raise InputError(
            f"{record.place}: the id is {_kind(key)}; expected a string or a whole number"
        )
    return Item(text, key)


def _string(record: dict[str, Any], field: str, place: str) -> str:
    value = record[field]
    if not isinstance(value, str):
        raise InputError(f"{place}: field {field!r} is {_kind(value)}; expected a string")
    return value


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "true or false"}
    return "null" if value is None else kinds.get(type(value), "a number")


def _check_text(text: str, place: str) -> None:
    if not text.strip():
        raise InputError(f"{place} is empty; there is nothing to read in it: leave it out")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{place}: character {error.start + 1} ({text[error.start]!a}) is half a character; "
            "convert the text to UTF-8"
        ) from error
