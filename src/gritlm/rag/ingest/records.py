"""Readers of row files: JSON Lines, JSON arrays and objects, CSV and TSV.

A broken row is yielded as a function that returns its error, and reading continues: in a file of
millions of broken rows, no message is built for each of them.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import PurePath
from typing import IO, Any

from gritlm import jsonl
from gritlm.errors import InputError
from gritlm.rag.ingest.encodings import decoded, is_wide
from gritlm.rag.types import ID_NAMES, TEXT_NAMES

Row = dict[str, Any] | Callable[[], InputError]
Rows = Iterator[tuple[str, Row]]

DELIMITERS = ",;\t|"
MOST_COLUMNS = 1000
UNNAMED = "column"  # of a table's column without a name, with its number


def is_rows(path: PurePath) -> bool:
    """Return whether a file holds rows, judged by the ending of its name."""
    return path.suffix.lower() in KINDS


def records(ending: str, file: IO[bytes], *, max_bytes: int) -> Rows:
    """Yield location and content of each row; ``:3`` is a line, ``[2]`` an item of an array.

    Args:
        ending: ending of the file's name, a key of ``KINDS``.
        file: seekable binary file.
        max_bytes: most bytes of a row of JSON Lines, or of the whole file in other formats.

    Raises:
        InputError: if the file does not have the format of its ending.
    """
    return KINDS[ending](file, max_bytes)


def _parsed(line: bytes) -> Row:
    line = line.strip(b" \t\r\n")
    if line.startswith(b"{") and line.endswith(b"}"):  # other lines only for their message
        with suppress(ValueError, RecursionError):
            row: dict[str, Any] = jsonl.parse(line, finite=True)
            return row
    return partial(_line_error, line)


def _line_error(line: bytes) -> InputError:
    """Return the error of a line that is not a JSON object."""
    try:
        jsonl.record(line, finite=True)
    except InputError as error:
        return error
    raise AssertionError("the line is a JSON object")


def _json_lines(file: IO[bytes], max_bytes: int) -> Rows:
    wide = is_wide(file.read(4))
    file.seek(0)
    if wide:
        file = io.BytesIO(_text(file, max_bytes).encode())
    for line in jsonl.lines(file, max_bytes=max_bytes):
        if line.too_long:
            why = f"a row of more than {max_bytes:,} bytes; cut it"
            yield f":{line.number}", partial(InputError, why)
        else:
            yield f":{line.number}", _parsed(line.data)


def _json(file: IO[bytes], max_bytes: int) -> Rows:
    """Yield the items of an array, or of the one array in an object; else the object."""
    text = _text(file, max_bytes)
    start = jsonl.behind_space(text, 0)
    if text.startswith("[", start):
        yield from _items(text)
        return
    try:
        value, end = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{jsonl.broken(error)}; expected an array or an object") from None
    if not isinstance(value, dict):
        raise InputError(f"{type(value).__name__}; expected a JSON array or object of documents")
    if jsonl.behind_space(text, end) < len(text):  # JSON lines under another name
        yield from _json_lines(io.BytesIO(text.encode()), max_bytes)
        return
    inner = _only_list(value)
    if inner is None:
        yield "", value
        return
    for number, item in enumerate(inner):
        yield f"[{number}]", _item(item)


def _items(text: str) -> Rows:
    """Yield the items of an array, up to broken JSON."""
    number = 0
    try:
        for number, value in enumerate(jsonl.items(text), start=1):
            yield f"[{number - 1}]", _item(value)
    except (ValueError, RecursionError) as error:
        yield f"[{number}]", partial(InputError, f"{jsonl.broken(error)}; the rest is not read")


def _item(value: object) -> Row:
    if isinstance(value, str):
        return {"text": value}
    if isinstance(value, dict):
        return value
    return partial(_item_error, type(value))


def _item_error(kind: type) -> InputError:
    return InputError(f"{kind.__name__}; expected an object or text")


def _only_list(value: Mapping[str, Any]) -> list[Any] | None:
    """Return the list of objects in a JSON object, if it has exactly one and no text."""
    found = [
        item
        for item in value.values()
        if isinstance(item, list) and item and all(isinstance(each, dict) for each in item)
    ]
    texts = any(isinstance(item, str) for item in value.values())
    return found[0] if len(found) == 1 and not texts else None


def _csv(file: IO[bytes], max_bytes: int) -> Rows:
    text = _text(file, max_bytes)
    header = text.lstrip("\n").partition("\n")[0]
    named = re.fullmatch(r"sep=(.)", header)  # as spreadsheets write it
    if named:
        text = text.partition("\n")[2]
    delimiter = named[1] if named else max(DELIMITERS, key=header.count)
    return _table(text, delimiter, max_bytes)


def _tsv(file: IO[bytes], max_bytes: int) -> Rows:
    return _table(_text(file, max_bytes), "\t", max_bytes)


def _table(text: str, delimiter: str, max_bytes: int) -> Rows:
    """Yield the rows of a table with a header; cells are text, empty cells are left out."""
    csv.field_size_limit(max(csv.field_size_limit(), max_bytes))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names: list[str] = []
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield f":{reader.line_num}", partial(InputError, f"broken CSV ({error})")
            continue
        if cells is None:
            break
        if not any(cell.strip() for cell in cells):
            continue
        if not names:
            names = _names(cells)
        elif len(cells) > len(names) and any(cells[len(names) :]):
            why = f"{len(cells)} cells, the header has {len(names)}; quote cells with {delimiter!r}"
            yield f":{reader.line_num}", partial(InputError, why)
        else:
            row = zip(names, cells, strict=False)
            yield f":{reader.line_num}", {name: cell for name, cell in row if cell.strip()}


def _names(cells: list[str]) -> list[str]:
    """Return the column names; names of ids, titles and texts are lowercased.

    Raises:
        InputError: if two columns have the same name, or there are too many columns.
    """
    if len(cells) > MOST_COLUMNS:
        raise InputError(
            f"its first line has {len(cells):,} cells; expected a header of at most "
            f"{MOST_COLUMNS:,}"
        )
    known = {*ID_NAMES, *TEXT_NAMES, "title"}
    names = [cell.strip() or f"{UNNAMED} {number}" for number, cell in enumerate(cells, start=1)]
    names = [name.lower() if name.lower() in known else name for name in names]
    twice, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise InputError(f"two columns are named {twice[:80]!r}; rename one of them")
    return names


def _text(file: IO[bytes], max_bytes: int) -> str:
    data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise InputError(f"larger than {max_bytes:,} bytes; cut it, or allow more")
    if not data.strip():
        raise InputError("empty")
    return decoded(data).removeprefix("\ufeff")


KINDS: dict[str, Callable[[IO[bytes], int], Rows]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _tsv,
}
