"""Rows of a part: texts with their ids, and rows that cannot be used with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from gritlm import jsonl
from gritlm.errors import InputError, one_line
from gritlm.scale.bulk import lance
from gritlm.scale.bulk.parts import InputFile, Part, PartOptions, open_lines
from gritlm.scale.storage import explained

LONGEST_LINE = 16 * 2**20  # bytes


@dataclass(frozen=True)
class RejectedRow:
    """A row that is not in the result.

    Attributes:
        id: its id.
        reason: why it could not be used.
    """

    id: str
    reason: str


@dataclass(frozen=True)
class PartRows:
    """Rows of a part.

    Attributes:
        ids: ids of the texts: those of the input, else the name of the file and the row's number
            in it, or its first byte in a file of lines.
        texts: the texts.
        rejected: rows that cannot be used.
    """

    ids: list[str]
    texts: list[str]
    rejected: list[RejectedRow]


def read_part(part: Part, file: InputFile, options: PartOptions) -> PartRows:
    """Return the rows of a part.

    Args:
        part: the part.
        file: its file.
        options: the columns to read.

    Raises:
        StorageError: for a file that cannot be read.
    """
    rows = PartRows([], [], [])
    read = {
        "parquet": _parquet_rows,
        "lance": _lance_rows,
        "jsonl": _json_rows,
        "text": _text_rows,
    }[file.form]
    with explained(file.location.url, "read"):
        for name, row in read(part, file, options):
            _add(rows, name, row, options)
    return rows


def _add(rows: PartRows, name: str, row: dict[str, Any] | str, options: PartOptions) -> None:
    if isinstance(row, str):
        rows.rejected.append(RejectedRow(name, row))
        return
    key = _id_of(row, options)
    name = name if key is None else key
    text = row.get(options.field)
    if not isinstance(text, str):
        kind = "missing" if text is None else type(text).__name__
        rows.rejected.append(
            RejectedRow(name, f"the field {options.field!r} is {kind}, not a text")
        )
        return
    title = row.get("title")
    if options.field == "text" and isinstance(title, str):
        text = f"{title} {text}".strip()
    if not text:
        rows.rejected.append(RejectedRow(name, "the text is empty"))
        return
    rows.ids.append(name)
    rows.texts.append(text)


def _id_of(row: dict[str, Any], options: PartOptions) -> str | None:
    key = row.get(options.id_field) if options.id_field else row.get("id", row.get("_id"))
    return None if key is None or isinstance(key, dict | list) else str(key)


def _parquet_rows(
    part: Part, file: InputFile, options: PartOptions
) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(file.location.path, filesystem=file.location.filesystem) as opened:
        wanted = _columns(options)
        columns = [name for name in opened.schema_arrow.names if name in wanted]
        counts = [opened.metadata.row_group(group).num_rows for group in range(part.group)]
        table = opened.read_row_group(part.group, columns=columns)
    first = sum(counts) + part.start
    for index, row in enumerate(table.slice(part.start, part.stop - part.start).to_pylist()):
        yield f"{file.location.name}#{first + index}", row


def _lance_rows(
    part: Part, file: InputFile, options: PartOptions
) -> Iterator[tuple[str, dict[str, Any]]]:
    numbers = range(part.start, part.stop)
    table = lance.read_rows(file.location, file.changed, numbers, _columns(options))
    for number, row in zip(numbers, table.to_pylist(), strict=True):
        yield f"{file.location.name}#{number}", row


def _columns(options: PartOptions) -> set[str]:
    return {options.field, options.id_field or "id", "id", "_id", "title"}


def _json_rows(
    part: Part, file: InputFile, options: PartOptions
) -> Iterator[tuple[str, dict[str, Any] | str]]:
    del options
    return _parsed(part, file, jsonl.record)


def _text_rows(
    part: Part, file: InputFile, options: PartOptions
) -> Iterator[tuple[str, dict[str, Any] | str]]:
    return _parsed(part, file, lambda data: {options.field: jsonl.decode(data)})


def _parsed(
    part: Part, file: InputFile, parse: Callable[[bytes], dict[str, Any]]
) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """Yield name and content of the lines of a part, or the reason why a line has no content."""
    for start, line in _lines(part, file):
        name = f"{file.location.name}#{start}"
        if line.too_long:
            yield name, f"the line has more than {LONGEST_LINE:,} bytes"
            continue
        try:
            yield name, parse(line.data)
        except InputError as error:
            yield name, one_line(error, limit=200)


def _lines(part: Part, file: InputFile) -> Iterator[tuple[int, jsonl.Line]]:
    """Yield first byte and line of the lines that begin in a range, without blank ones."""
    with open_lines(file) as opened:
        if part.start:
            opened.seek(part.start - 1)
            opened.readline()  # the rest of the line that begins in the range before
        begin = opened.tell()
        for line in jsonl.lines(opened, max_bytes=LONGEST_LINE):
            first = begin == 0 and line.number == 1  # it may begin behind a byte order mark
            if begin + line.start >= part.stop and not first:
                return
            yield begin + line.start, line
