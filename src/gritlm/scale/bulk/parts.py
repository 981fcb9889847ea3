"""Parts of the input of a job: row ranges of tables and byte ranges of files of lines.

The same files and settings give the same parts, with the same numbers: a job that was killed knows
by them what is done.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from gritlm import jsonl
from gritlm.errors import InputError, did_you_mean, one_line
from gritlm.scale.bulk import lance
from gritlm.scale.storage import Location, explained

FORMS = {
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".txt": "text",
}
_SLICES = 16  # most parts of a row group, each of which reads the row group again
_HIDDEN = ("_", ".")  # names of files that are no data


@dataclass(frozen=True)
class PartOptions:
    """Size of the parts, and the columns that are read.

    Attributes:
        rows: rows of a part of a Parquet file or a Lance table.
        line_bytes: bytes of a part of a file of lines.
        field: column or field with the text.
        id_field: column or field with the id; None for ``id`` or ``_id``, where there is one.
    """

    rows: int = 1024
    line_bytes: int = 512 * 1024
    field: str = "text"
    id_field: str | None = None

    def __post_init__(self) -> None:
        if self.rows < 1 or self.line_bytes < 1:
            raise InputError(
                f"parts of {self.rows} rows or {self.line_bytes} bytes; expected at least 1"
            )


@dataclass(frozen=True)
class InputFile:
    """A file or Lance table of the input.

    Attributes:
        location: where it is.
        form: ``parquet``, ``jsonl``, ``text`` or ``lance``.
        size: its bytes, or the rows of a Lance table.
        changed: time of its last change in nanoseconds, or the version of a Lance table.
    """

    location: Location
    form: str
    size: int
    changed: int


@dataclass(frozen=True)
class Part:
    """A range of rows or bytes of a file.

    Attributes:
        number: number of the part in the job.
        file: number of the file among the files of the job.
        group: row group of a Parquet file; -1 for other files.
        start: first row in the row group or Lance table, or first byte.
        stop: row or byte behind the last one.
    """

    number: int
    file: int
    group: int
    start: int
    stop: int


def input_files(sources: Sequence[str | Location]) -> list[InputFile]:
    """Return the files of paths and addresses, in the order of their names in each folder.

    Args:
        sources: files, and folders that are searched with the folders in them.

    Raises:
        InputError: for a missing source, a format that is not read, or no file at all.
    """
    found: list[InputFile] = []
    for source in sources:
        location = source if isinstance(source, Location) else Location.of(source)
        found += [_table(location)] if lance.is_table(location) else _files_of(location)
    if not found:
        raise InputError(
            f"no file to read in {', '.join(map(str, sources))}; expected {', '.join(FORMS)}"
        )
    return found


def _table(location: Location) -> InputFile:
    table = lance.open_table(location)
    return InputFile(location, "lance", table.count_rows(), table.version)


def _files_of(location: Location) -> list[InputFile]:
    from pyarrow import fs

    with explained(location.url, "read"):
        here = location.filesystem.get_file_info(location.path)
    if here.type == fs.FileType.NotFound:
        raise InputError(f"{location.url} does not exist; check the path of the input")
    if here.is_file:
        form = FORMS.get(here.extension and f".{here.extension.lower()}")
        if form is None:
            raise InputError(
                f"{location.url}: expected a file of {', '.join(FORMS)}, a folder, or "
                f"NAME{lance.ENDING}"
            )
        return [InputFile(location, form, here.size, here.mtime_ns or 0)]
    files = []
    for each in location.files(deep=True):
        inside = each.path[len(location.path) :].strip("/")
        form = FORMS.get(f".{each.extension.lower()}")
        if form and not any(name.startswith(_HIDDEN) for name in inside.split("/")):
            files.append(InputFile(location.child(inside), form, each.size, each.mtime_ns or 0))
    return files


def plan(files: Sequence[InputFile], options: PartOptions) -> list[Part]:
    """Return the parts of all files.

    Args:
        files: the files.
        options: size of the parts and the columns.

    Raises:
        InputError: for a file without the column or field of the text.
    """
    parts: list[Part] = []
    for number, file in enumerate(files):
        ranges = _RANGES.get(file.form, _byte_ranges)(file, options)
        for group, start, stop in ranges:
            parts.append(Part(len(parts), number, group, start, stop))
    return parts


def _row_ranges(file: InputFile, options: PartOptions) -> Iterator[tuple[int, int, int]]:
    import pyarrow.parquet as pq

    with explained(file.location.url, "read as Parquet"):
        opened = pq.ParquetFile(file.location.path, filesystem=file.location.filesystem)
        with opened:
            names = opened.schema_arrow.names
            groups = [
                opened.metadata.row_group(group).num_rows for group in range(opened.num_row_groups)
            ]
    _require_columns(file.location.url, names, options)
    for group, rows in enumerate(groups):
        size = max(options.rows, ceil(rows / _SLICES))
        for start in range(0, rows, size):
            yield group, start, min(start + size, rows)


def _lance_ranges(file: InputFile, options: PartOptions) -> Iterator[tuple[int, int, int]]:
    table = lance.open_table(file.location, version=file.changed)
    _require_columns(file.location.url, table.schema.names, options)
    for start in range(0, file.size, options.rows):
        yield -1, start, min(start + options.rows, file.size)


def _byte_ranges(file: InputFile, options: PartOptions) -> Iterator[tuple[int, int, int]]:
    if file.form == "jsonl":
        _require_field(file, options)
    for start in range(0, file.size, options.line_bytes):
        yield -1, start, min(start + options.line_bytes, file.size)


_RANGES = {"parquet": _row_ranges, "lance": _lance_ranges}


def _require_field(file: InputFile, options: PartOptions) -> None:
    """Require the field of the text in the first line that is not blank."""
    with explained(file.location.url, "read"), open_lines(file) as opened:
        first = next(jsonl.lines(opened), None)
    if first is None:
        return
    row = jsonl.record(first.data, f"{file.location.url}:{first.number}")
    _require_columns(file.location.url, list(row), options)


def open_lines(file: InputFile) -> Any:
    """Open a file of lines for buffered reading; its buffer is read in pieces of 64 KiB.

    Args:
        file: the file.
    """
    import io

    raw = file.location.filesystem.open_input_file(file.location.path)
    return io.BufferedReader(raw, 65536)


def _require_columns(url: str, names: Sequence[str], options: PartOptions) -> None:
    for name in filter(None, (options.field, options.id_field)):
        if name not in names:
            shown = ", ".join(one_line(each, limit=40) for each in names[:20]) or "none"
            raise InputError(
                f"{url} has no column {name!r}{did_you_mean(name, names) if names else ''}; its "
                f"columns: {shown}; choose the text with --field and the id with --id-field"
            )
