"""Request bodies to documents. A file's name is a name: no file is opened by it."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any

from gritlm.errors import InputError
from gritlm.rag import readers, records, rows
from gritlm.rag.metadata import normalise_metadata
from gritlm.rag.passages import Document, Value
from gritlm.rag.readers import READERS, Content
from gritlm.rag.skips import Skipped, Skips
from gritlm.serve.errors import invalid
from gritlm.serve.reading import KINDS, Reader
from gritlm.serve.schemas.rag import AddBody, FileBody

Reason = Callable[[], str]  # why something is skipped: made for those that are named
_LONGEST_FILE = 2**26  # bytes; a body is shorter anyway


def documents(body: AddBody, reader: Reader) -> tuple[list[Document], Skips]:
    """Return the documents of a body, and those that were skipped. All ids differ.

    Raises:
        ApiError: for a body without any.
    """
    if not body.documents and not body.files:
        raise invalid("'documents' and 'files' are empty; expected at least one document")
    found: list[Document] = []
    skipped = Skips()
    places: dict[str, str] = {}  # by id
    for place, item in _all(body, reader):
        if not isinstance(item, Document):
            skipped.add(place, item)
        elif item.id in places:
            skipped.append(Skipped(place, f"its id {item.id!r} is that of {places[item.id]}"))
        else:
            places[item.id] = place
            found.append(item)
    return found, skipped


def _all(body: AddBody, reader: Reader) -> Iterator[tuple[str, Document | Reason]]:
    """Yield where each document stands in the body, and the document or why it is skipped."""
    for number, given in enumerate(body.documents):
        place = f"documents[{number}]"
        try:
            yield place, rows.document(given.model_dump(exclude_none=True))
        except InputError as error:
            yield given.id or place, partial(str, error)
    slow = [file for file in body.files if _ending(file) in KINDS]
    read = iter(reader.contents([(_ending(file), file.data) for file in slow]))
    for file in body.files:
        for item in _of_file(file, next(read) if _ending(file) in KINDS else None):
            yield file.name, item


def _of_file(file: FileBody, read: Content | str | None) -> Iterator[Document | Reason]:
    """Yield the documents of a file, or why they are skipped.

    Args:
        read: its content, or why it cannot be read; None where no process has read it.
    """
    try:
        data, metadata = _decoded(file.data), normalise_metadata(file.metadata or {})
        if _ending(file) in records.KINDS:
            yield from _of_rows(file, data, metadata)
        else:
            yield _document(file.name, _content(_ending(file), data, read), metadata)
    except InputError as error:
        yield partial(str, error)


def _ending(file: FileBody) -> str:
    return PurePosixPath(file.name).suffix.lower()


def _content(ending: str, data: bytes, read: Content | str | None) -> Content:
    if ending not in READERS:
        known = ", ".join([*READERS, *records.KINDS])
        raise InputError(f"{ending or 'no ending'}: not a kind that is read; known: {known}")
    if isinstance(read, str):
        raise InputError(read)
    return readers.read(ending, data) if read is None else read


def _document(name: str, content: Content, metadata: dict[str, Value]) -> Document:
    both = normalise_metadata({**content.metadata, **metadata})
    return Document(name, content.text, content.title, both, markdown=content.markdown)


def _of_rows(
    file: FileBody, data: bytes, metadata: dict[str, Value]
) -> Iterator[Document | Reason]:
    found = False
    for place, row in records.records(_ending(file), BytesIO(data), max_bytes=_LONGEST_FILE):
        found = True
        if not isinstance(row, dict):
            yield partial(_reason, place, row)
        elif not rows.has_text(row, file.text_field):
            yield partial(_reason, place, partial(rows.without_text, row, file.text_field))
        else:
            yield _of_row(file, place, row, metadata)
    if not found:
        raise InputError("empty")


def _of_row(
    file: FileBody, place: str, row: dict[str, Any], metadata: dict[str, Value]
) -> Document | Reason:
    given = row.get("metadata") or {}
    own = metadata | given if isinstance(given, dict) else given
    try:
        return rows.document(
            {**row, "metadata": own}, prefix=f"{file.name}#", text_field=file.text_field
        )
    except InputError as error:
        return partial(_reason, place, partial(InputError, str(error)))


def _reason(place: str, error: Callable[[], InputError]) -> str:
    return f"{_spoken(place)}{error()}"


def _spoken(place: str) -> str:
    """Return a place within a file as a message names it: ``line 3: ``, ``item [3]: ``."""
    if not place:
        return ""
    return f"line {place[1:]}: " if place.startswith(":") else f"item {place}: "


def _decoded(data: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise InputError("'data' is no base64") from None
