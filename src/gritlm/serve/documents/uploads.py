"""Documents of a request, given as objects or as files. No file is opened by its name."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any

from gritlm.errors import InputError
from gritlm.rag.ingest import readers, records, rows
from gritlm.rag.ingest.file_content import FileContent
from gritlm.rag.ingest.file_reader import FileReader
from gritlm.rag.ingest.metadata import normalise_metadata
from gritlm.rag.ingest.readers import READERS
from gritlm.rag.ingest.skips import SkippedSource, Skips
from gritlm.rag.types import Document, Value
from gritlm.serve.errors import invalid
from gritlm.serve.schemas.rag import AddDocumentsRequest, FileObject

Reason = Callable[[], str]  # reason to skip a document, built only if the response names it
_LONGEST_FILE = 2**26  # bytes; the limit of a request body is lower


def documents(body: AddDocumentsRequest, reader: FileReader) -> tuple[list[Document], Skips]:
    """Return the documents of a request with distinct ids, and the documents that were skipped.

    Args:
        body: the request.
        reader: reader of the files that need a process of their own.

    Raises:
        ApiError: if the request has no documents and no files.
    """
    if not body.documents and not body.files:
        raise invalid("'documents' and 'files' are empty; expected at least one document")
    found: list[Document] = []
    skipped = Skips()
    names: dict[str, str] = {}  # by id
    for name, item in _all(body, reader):
        if not isinstance(item, Document):
            skipped.add(name, item)
        elif item.id in names:
            skipped.append(SkippedSource(name, f"its id {item.id!r} is that of {names[item.id]}"))
        else:
            names[item.id] = name
            found.append(item)
    return found, skipped


def _all(body: AddDocumentsRequest, reader: FileReader) -> Iterator[tuple[str, Document | Reason]]:
    """Yield the name of each document in the request, and the document or the reason to skip it."""
    for number, item in enumerate(body.documents):
        name = f"documents[{number}]"
        try:
            yield name, rows.document(item.model_dump(exclude_none=True))
        except InputError as error:
            yield item.id or name, partial(str, error)
    slow = [file for file in body.files if _ending(file) in reader.kinds]
    read = iter(reader.contents([(_ending(file), file.data) for file in slow]))
    for file in body.files:
        for document in _of_file(file, next(read) if _ending(file) in reader.kinds else None):
            yield file.name, document


def _of_file(file: FileObject, read: FileContent | str | None) -> Iterator[Document | Reason]:
    """Yield the documents of a file, or the reasons to skip them.

    Args:
        file: the file.
        read: the content of the file, or the reason why it cannot be read; None for a file that
            needs no process of its own.
    """
    try:
        data = _decode(file.data)
        metadata = normalise_metadata(file.metadata or {})
        if _ending(file) in records.KINDS:
            yield from _of_rows(file, data, metadata)
        else:
            yield _document(file.name, _content(_ending(file), data, read), metadata)
    except InputError as error:
        yield partial(str, error)


def _ending(file: FileObject) -> str:
    return PurePosixPath(file.name).suffix.lower()


def _content(ending: str, data: bytes, read: FileContent | str | None) -> FileContent:
    if isinstance(read, str):
        raise InputError(read)
    if read is None and ending not in READERS:
        known = ", ".join([*READERS, *records.KINDS])
        raise InputError(f"{ending or 'no ending'}: not a kind that is read; known: {known}")
    return readers.read(ending, data) if read is None else read


def _document(name: str, content: FileContent, metadata: dict[str, Value]) -> Document:
    both = normalise_metadata({**content.metadata, **metadata})
    return Document(
        name,
        content.text,
        content.title,
        both,
        markdown=content.markdown,
        media=content.media,
        pages=content.pages,
    )


def _of_rows(
    file: FileObject, data: bytes, metadata: dict[str, Value]
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
    file: FileObject, place: str, row: dict[str, Any], metadata: dict[str, Value]
) -> Document | Reason:
    value = row.get("metadata") or {}
    own = metadata | value if isinstance(value, dict) else value
    try:
        return rows.document(
            {**row, "metadata": own}, prefix=f"{file.name}#", text_field=file.text_field
        )
    except InputError as error:
        return partial(_reason, place, partial(InputError, str(error)))


def _reason(place: str, error: Callable[[], InputError]) -> str:
    return f"{_position(place)}{error()}"


def _position(place: str) -> str:
    """Return a position in a file as messages name it: ``line 3: `` or ``item [3]: ``."""
    if not place:
        return ""
    return f"line {place[1:]}: " if place.startswith(":") else f"item {place}: "


def _decode(data: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise InputError("'data' is not valid base64") from None
