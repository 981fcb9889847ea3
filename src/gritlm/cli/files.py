"""Texts to embed: from the command line, from a text file, from JSON lines, from stdin.

Everything is read and checked before a model is loaded, so a broken line costs no waiting.
"""

from __future__ import annotations

import json
import logging
import sys
from codecs import BOM_UTF8
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gritlm.cli import logs
from gritlm.cli.options import InputFormat
from gritlm.errors import InputError

STDIN = "-"
_JSONL_ENDINGS = (".jsonl", ".ndjson")


@dataclass(frozen=True)
class Item:
    """A text, and the id it came with (None: it is known by its number)."""

    text: str
    id: str | int | None = None


@dataclass(frozen=True)
class _Line:
    place: str  # "notes.txt:3", for messages
    text: str


def from_arguments(texts: Sequence[str]) -> list[Item]:
    """The texts of the command line.

    Raises:
        InputError: naming the text that is empty or holds undecodable bytes.
    """
    for number, text in enumerate(texts, start=1):
        _check_text(text, f"text {number} of the command line")
    return [Item(text) for text in texts]


def read_items(source: str, *, input_format: InputFormat, field: str) -> list[Item]:
    """The texts of a file (or of stdin for ``-``), in order.

    A text file holds one text a line, blank lines are left out. A JSON object a line holds its
    text in ``field``; with the field ``text`` its ``title`` is put before it, as
    ``GritLM.encode_corpus`` does, and its ``id`` (or ``_id``) is kept.

    Raises:
        InputError: naming the file and the line that cannot be used.
    """
    name, data = _read(source)
    lines = _lines(name, data)
    if not lines:
        raise InputError(f"{name} holds no text; expected one text or JSON object a line")
    if _is_jsonl(source, lines[0], input_format):
        return [_from_record(line, field) for line in lines]
    skipped = data.removesuffix(b"\n").count(b"\n") + 1 - len(lines)
    if skipped:
        logging.getLogger(f"{logs.NAME}.cli").warning(
            "%s: %d blank line%s left out", name, skipped, "" if skipped == 1 else "s"
        )
    return [Item(line.text) for line in lines]


def read_prompt() -> str:
    """All of stdin as one text, without the line end.

    Raises:
        InputError: when nothing is piped in, or it is empty or not UTF-8.
    """
    name, data = _read(STDIN)
    text = decode(data, name).removesuffix("\n").removesuffix("\r")
    _check_text(text, name)
    return text


def stdin_is_piped() -> bool:
    """Whether stdin is a pipe or a file, not a person at a keyboard."""
    return sys.stdin is not None and not sys.stdin.isatty()


def _read(source: str) -> tuple[str, bytes]:
    if source == STDIN:
        if sys.stdin is None:
            raise InputError("stdin is closed; pipe a text in, or give it as an argument")
        return "stdin", sys.stdin.buffer.read().removeprefix(BOM_UTF8)
    try:
        return source, Path(source).read_bytes().removeprefix(BOM_UTF8)
    except OSError as error:
        raise InputError(
            f"cannot read {source}: {error.strerror}; expected a text file or JSON lines, "
            "or - for stdin"
        ) from error


def _lines(name: str, data: bytes) -> list[_Line]:
    """The lines that are not blank."""
    places = ((f"{name}:{n}", line) for n, line in enumerate(data.split(b"\n"), start=1))
    decoded = ((place, decode(line, place)) for place, line in places)
    return [_Line(place, text.removesuffix("\r")) for place, text in decoded if text.strip()]


def decode(data: bytes, place: str) -> str:
    """UTF-8 to text.

    Raises:
        InputError: naming the place and the first byte that is not UTF-8.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{place}: byte {error.start + 1} (0x{data[error.start]:02x}) is not UTF-8; "
            "convert the text to UTF-8"
        ) from error


def _is_jsonl(source: str, first: _Line, input_format: InputFormat) -> bool:
    if input_format is not InputFormat.auto:
        return input_format is InputFormat.jsonl
    return source.lower().endswith(_JSONL_ENDINGS) or first.text.lstrip().startswith("{")


def _from_record(line: _Line, field: str) -> Item:
    record = _parse(line)
    if field not in record:
        raise InputError(
            f"{line.place}: no field {field!r}; the record has "
            f"{', '.join(map(repr, record)) or 'no field at all'}; name the right one with --field"
        )
    text = _string(record, field, line.place)
    if field == "text":
        title = _string(record, "title", line.place) if record.get("title") is not None else ""
        text = f"{title} {text}".strip()
    _check_text(text, f"{line.place}: field {field!r}")
    key = record.get("id", record.get("_id"))
    if key is not None and (isinstance(key, bool) or not isinstance(key, str | int)):
        raise InputError(
            f"{line.place}: the id is {_kind(key)}; expected a string or a whole number"
        )
    return Item(text, key)


def _parse(line: _Line) -> dict[str, Any]:
    try:
        record = json.loads(line.text)
    except (ValueError, RecursionError) as error:
        where = (
            f"{error.msg} at column {error.colno}"
            if isinstance(error, json.JSONDecodeError)
            else str(error)
        )
        raise InputError(
            f"{line.place}: broken JSON ({where}); expected one JSON object a line; "
            "plain text is read with --input-format text"
        ) from error
    if not isinstance(record, dict):
        raise InputError(f"{line.place}: {_kind(record)}; expected a JSON object a line")
    return record


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
