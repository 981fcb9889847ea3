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
from gritlm.rag.readers import READERS
from gritlm.serve.errors import invalid
from gritlm.serve.schemas.rag import AddBody, FileBody

_ROWS = ".jsonl"
_LONGEST_ROW = 2**26  # bytes; a body is shorter anyway


def documents(body: AddBody) -> tuple[list[Document], list[dict[str, str]]]:
    """The documents of a body, and what could not be read, with the reason.

    Raises:
        ApiError: for a body without any.
    """
    if not body.documents and not body.files:
        raise invalid("'documents' and 'files' are empty; expected at least one document")
    found: list[Document] = []
    skipped: list[dict[str, str]] = []
    for number, given in enumerate(body.documents):
        try:
            found.append(rows.document(given.model_dump(exclude_none=True)))
        except InputError as error:
            skipped.append({"name": given.id or f"documents[{number}]", "reason": str(error)})
    for file in body.files:
        for item in _of_file(file):
            if isinstance(item, Document):
                found.append(item)
            else:
                skipped.append({"name": file.name, "reason": item})
    return found, skipped


def _of_file(file: FileBody) -> Iterator[Document | str]:
    """Documents of a file, or why there is none."""
    try:
        data, metadata = _decoded(file.data), checked(file.metadata or {})
        ending = PurePosixPath(file.name).suffix.lower()
        if ending == _ROWS:
            yield from _of_rows(file.name, data, metadata)
        else:
            yield _document(file.name, ending, data, metadata)
    except InputError as error:
        yield str(error)


def _document(name: str, ending: str, data: bytes, metadata: dict[str, Any]) -> Document:
    if ending not in READERS:
        known = ", ".join([*READERS, _ROWS])
        raise InputError(f"{ending or 'no ending'}: not a kind that is read; known: {known}")
    content = READERS[ending](data) if data.strip() else None
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
            yield rows.document({**row, "metadata": own}, prefix=f"{name}#")
        except InputError as error:
            yield f"line {number}: {error}"


def _decoded(data: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise InputError("'data' is no base64") from None
