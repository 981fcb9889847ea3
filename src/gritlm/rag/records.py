"""Files of rows to their rows: JSON lines, JSON arrays and objects, CSV and TSV tables.

A broken row is yielded as a function that returns its error, and the others go on: a file of
millions of broken rows is counted without a message for each.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import PurePath
from typing import IO, Any

from gritlm.errors import InputError
from gritlm.rag.decoding import decoded, is_wide
from gritlm.rag.passages import ID_NAMES, TEXT_NAMES

Row = dict[str, Any] | Callable[[], InputError]
Rows = Iterator[tuple[str, Row]]

SPACE = re.compile(r"[ \t\n\r\ufeff]*")
DELIMITERS = ",;\t|"
MOST_COLUMNS = 1000
UNNAMED = "column"  # of a table's column without a name, with its number


def is_rows(path: PurePath) -> bool:
    """Tell whether a file holds rows, by the ending of its name."""
    return path.suffix.lower() in KINDS


def records(ending: str, file: IO[bytes], *, max_bytes: int) -> Rows:
    """Yield the places and rows of a file: ``:3`` for a line, ``[2]`` for an item of an array.

    Args:
        ending: of the file's name, one of ``KINDS``.
        file: that can be read again from its start.
        max_bytes: of a row of JSON lines, else of the file.

    Raises:
        InputError: for a file that does not hold rows of its kind.
    """
    return KINDS[ending](file, max_bytes)


def lines(file: IO[bytes], *, max_bytes: int) -> Iterator[tuple[int, Row]]:
    """Yield numbers, from 1, and objects of a file's lines that are not blank, or their errors."""
    number = 0
    while line := file.readline(max_bytes + 1):
        number += 1
        if len(line) > max_bytes:
            while line and not line.endswith(b"\n"):
                line = file.readline(max_bytes)
            yield number, partial(InputError, f"a row of more than {max_bytes:,} bytes; cut it")
        elif line.strip():
            yield number, _parsed(line)


def _parsed(line: bytes) -> Row:
    line = line.removeprefix(codecs.BOM_UTF8).strip(b" \t\r\n")
    if not (line.startswith(b"{") and line.endswith(b"}")):  # most lines that are no objects
        return partial(_line_error, line)
    try:
        row: dict[str, Any] = _STRICT.decode(line.decode())
    except (ValueError, RecursionError):
        return partial(_line_error, line)
    return row


def _line_error(line: bytes) -> InputError:
    """Return the reason why a line is no object."""
    try:
        row = _STRICT.decode(line.decode())
    except UnicodeDecodeError as error:
        return InputError(f"byte {error.start + 1} is not UTF-8; convert the file to UTF-8")
    except (ValueError, RecursionError) as error:
        return InputError(f"broken JSON ({error}); expected one object a line")
    return InputError(f"{type(row).__name__}; expected one JSON object a line")


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


_STRICT = json.JSONDecoder(parse_constant=_no_number)


def _json_lines(file: IO[bytes], max_bytes: int) -> Rows:
    wide = is_wide(file.read(4))
    file.seek(0)
    if wide:
        file = io.BytesIO(_text(file, max_bytes).encode())
    for number, row in lines(file, max_bytes=max_bytes):
        yield f":{number}", row


def _json(file: IO[bytes], max_bytes: int) -> Rows:
    """Yield the items of an array; an object is one row, or holds an array of them."""
    text = _text(file, max_bytes)
    start = _behind_space(text, 0)
    if text.startswith("[", start):
        yield from _items(text, start + 1)
        return
    try:
        value, end = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError) as error:
        raise InputError(f"broken JSON ({error}); expected an array or an object") from None
    if not isinstance(value, dict):
        raise InputError(f"{type(value).__name__}; expected a JSON array or object of documents")
    if _behind_space(text, end) < len(text):  # JSON lines under another name
        for number, row in lines(io.BytesIO(text.encode()), max_bytes=max_bytes):
            yield f":{number}", row
        return
    inner = _only_list(value)
    if inner is None:
        yield "", value
        return
    for number, item in enumerate(inner):
        yield f"[{number}]", _item(item)


def _items(text: str, place: int) -> Rows:
    """Yield the items of an array one by one, so that a large one takes no more memory."""
    decoder = json.JSONDecoder()
    place, number = _behind_space(text, place), 0
    while not text.startswith("]", place) or number:
        try:
            value, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            why = f"broken JSON ({error}); the rest is not read"
            yield f"[{number}]", partial(InputError, why)
            return
        yield f"[{number}]", _item(value)
        number += 1
        place = _behind_space(text, place)
        if text.startswith("]", place):
            break
        if not text.startswith(",", place):
            why = "broken JSON: no comma or ]; the rest is not read"
            yield f"[{number}]", partial(InputError, why)
            return
        place = _behind_space(text, place + 1)
    if _behind_space(text, place + 1) < len(text):
        why = "broken JSON: text behind the array; it is not read"
        yield f"[{number}]", partial(InputError, why)


def _item(value: object) -> Row:
    if isinstance(value, str):
        return {"text": value}
    if isinstance(value, dict):
        return value
    return partial(_item_error, type(value))


def _item_error(kind: type) -> InputError:
    return InputError(f"{kind.__name__}; expected an object or text")


def _only_list(value: Mapping[str, Any]) -> list[Any] | None:
    """Return the one list of objects that an object without text holds."""
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
    """Yield the rows below a header. All cells are text; empty ones are left out."""
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
    """Return the names of columns; those of ids, titles and texts in small letters.

    Raises:
        InputError: for two columns of one name, and for too many of them.
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


def _behind_space(text: str, place: int) -> int:
    found = SPACE.match(text, place)
    return place if found is None else found.end()


KINDS: dict[str, Callable[[IO[bytes], int], Rows]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _tsv,
}
