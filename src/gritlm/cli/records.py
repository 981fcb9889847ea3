"""Records of JSON lines, a JSON array or a table with a header."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gritlm import jsonl
from gritlm.cli.options import InputFormat
from gritlm.errors import InputError

_BY_ENDING = {
    ".jsonl": InputFormat.jsonl,
    ".ndjson": InputFormat.jsonl,
    ".json": InputFormat.json,
    ".csv": InputFormat.csv,
    ".tsv": InputFormat.tsv,
}
_SEPARATORS = {InputFormat.csv: ",;\t|", InputFormat.tsv: "\t"}
_NOT_THE_END = "Extra data"  # message of the json module: another value begins
_AS_TEXT = "plain text is read with --input-format text"
_LINES = f"{jsonl.OBJECT_A_LINE}; {_AS_TEXT}"
_ARRAY = f"an array of objects; {_AS_TEXT}"
_LONGEST_CELL = 2**31 - 1  # the default of the csv module is 128 KiB


@dataclass(frozen=True)
class Record:
    """A record of a file.

    Attributes:
        place: ``file:line``, or ``file: item 3`` for an item of an array.
        values: the parsed JSON; its type is checked where the fields are read.
    """

    place: str
    values: Any


def format_of(name: str, text: str, wanted: InputFormat) -> InputFormat:
    """Return the format of a text: ``wanted``, or detected from the extension or the content.

    Args:
        name: name of the file.
        text: its content.
        wanted: format that the user chose, or ``auto``.
    """
    if wanted is not InputFormat.auto:
        return wanted
    for ending, form in _BY_ENDING.items():
        if name.lower().endswith(ending):
            return form
    beginning = text.lstrip()[:1]
    if beginning == "{":
        return InputFormat.jsonl
    return InputFormat.json if beginning == "[" and _is_array(text) else InputFormat.text


def read(name: str, text: str, form: InputFormat) -> Iterator[Record]:
    """Yield the records of JSON lines, a JSON array or a table.

    Args:
        name: name of the file, for messages.
        text: its content.
        form: its format, other than ``text`` and ``auto``.

    Raises:
        InputError: for broken JSON or a row that does not fit the header, with file and line.
    """
    if form is InputFormat.jsonl:
        return _json_lines(name, text)
    if form is InputFormat.json:
        return _json(name, text)
    return _table(name, text, _SEPARATORS[form])


def _json_lines(name: str, text: str) -> Iterator[Record]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            place = f"{name}:{number}"
            yield Record(place, jsonl.value(line, place, expected=_LINES))


def _json(name: str, text: str) -> Iterator[Record]:
    """Yield the items of a JSON array or a single object; accept JSON lines too."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError) and error.msg == _NOT_THE_END:
            yield from _json_lines(name, text)
            return
        raise jsonl.broken_file(name, error, expected=_ARRAY) from error
    for number, values in enumerate(found if isinstance(found, list) else [found], start=1):
        yield Record(f"{name}: item {number}", values)


def _is_array(text: str) -> bool:
    try:
        return isinstance(json.loads(text), list)
    except (ValueError, RecursionError):
        return False


def _table(name: str, text: str, separators: str) -> Iterator[Record]:
    csv.field_size_limit(_LONGEST_CELL)
    beginning = text.split("\n", 1)[0]
    separator = max(separators, key=beginning.count)
    lines = (f"{line}\n" for line in text.split("\n"))
    rows = csv.reader(lines, delimiter=separator, strict=True)
    header: list[str] = []
    first = 1
    try:
        for cells in rows:
            place = f"{name}:{first}"
            first = rows.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if not header:
                header = _header(place, cells)
                continue
            if len(cells) != len(header):
                raise InputError(
                    f"{place}: {len(cells)} cells, the header has {len(header)} "
                    f"({', '.join(map(repr, header))}); quote cells that hold {separator!r}"
                )
            yield Record(place, dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise InputError(
            f"{name}:{first}: broken table ({error}); "
            f"expected cells separated by {separator!r}; {_AS_TEXT}"
        ) from error


def _header(place: str, cells: list[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{place}: column {name!r} is in the header twice; rename one")
    return names
