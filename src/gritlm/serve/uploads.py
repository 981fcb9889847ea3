"""Bodies that bring documents -> documents. A file's name is a name: nothing is opened by it."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any

from gritlm.errors import InputError
from gritlm.rag import rows
from gritlm.rag.metadata import checked
from gritlm.rag.passages import Document
from gritlm.rag.readers import READERS, Content
from gritlm.serve.errors import invalid
from gritlm.serve.reading import KINDS, Reader
from gritlm.serve.schemas.common import on_one_line
from gritlm.serve.schemas.rag import AddBody, FileBody

_ROWS = ".jsonl"
_LONGEST_ROW = 2**26  # bytes; a body is shorter anyway


def documents(body: AddBody, reader: Reader) -> tuple[list[Document], list[dict[str, str]]]:
    """The documents of a body, and what could not be read, with the reason. All ids differ.

    Raises:
        ApiError: for a body without any.
    """
    if not body.documents and not body.files:
        raise invalid("'documents' and 'files' are empty; expected at least one document")
    found: list[Document] = []
    skipped: list[dict[str, str]] = []
    places: dict[str, str] = {}  # by id
    for place, item in _all(body, reader):
        if isinstance(item, str):
            skipped.append({"name": place, "reason": item})
        elif item.id in places:
            reason = f"its id {item.id!r} is that of {places[item.id]}"
            skipped.append({"name": place, "reason": reason})
        else:
            places[item.id] = place
            found.append(item)
    return found, skipped


def _all(body: AddBody, reader: Reader) -> Iterator[tuple[str, Document | str]]:
    """Where each document stands in the body; and the document, or why there is none."""
    for number, given in enumerate(body.documents):
        place = f"documents[{number}]"
        try:
            yield place, rows.document(given.model_dump(exclude_none=True))
        except InputError as error:
            yield given.id or place, str(error)
    slow = [file for file in body.files if _ending(file) in KINDS]
    read = iter(reader.contents([(_ending(file), file.data) for file in slow]))
    for file in body.files:
        for item in _of_file(file, next(read) if _ending(file) in KINDS else None):
            yield file.name, item


def _of_file(file: FileBody, read: Content | str | None) -> Iterator[Document | str]:
    """Documents of a file, or why there is none.

    Args:
        read: what it says, or why that cannot be known; None: it was not read.
    """
    try:
        data, metadata = _decoded(file.data), checked(file.metadata or {})
        if _ending(file) == _ROWS:
            yield from _of_rows(file.name, data, metadata)
        else:
            yield _document(file.name, _content(_ending(file), data, read), metadata)
    except InputError as error:
        yield str(error)


def _ending(file: FileBody) -> str:
    return PurePosixPath(file.name).suffix.lower()


def _content(ending: str, data: bytes, read: Content | str | None) -> Content | None:
    if ending not in READERS:
        known = ", ".join([*READERS, _ROWS])
        raise InputError(f"{ending or 'no ending'}: not a kind that is read; known: {known}")
    if not data.strip():
        return None
    if isinstance(read, str):
        raise InputError(read)
    return READERS[ending](data) if read is None else read


def _document(name: str, content: Content | None, metadata: dict[str, Any]) -> Document:
    if content is None or not content.text.strip():
        raise InputError("empty: no text in it")
    return Document(name, content.text, content.title, metadata, markdown=content.markdown)


def _of_rows(name: str, data: bytes, metadata: dict[str, Any]) -> Iterator[Document | str]:
    for number, row in rows.lines(BytesIO(data), max_bytes=_LONGEST_ROW):
        try:
            if isinstance(row, InputError):
                raise row
            given = row.get("metadata") or {}
            own = metadata | given if isinstance(given, dict) else given
            document = rows.document({**row, "metadata": own}, prefix=f"{name}#")
            if not on_one_line(document.id):
                raise InputError(f"'id' is {row['id']!r}; expected no control characters in it")
            yield document
        except InputError as error:
            yield f"line {number}: {error}"


def _decoded(data: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise InputError("'data' is no base64") from None
