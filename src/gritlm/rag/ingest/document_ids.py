"""Validation of document ids, when documents are read for a store.

An id is part of URL paths (``/v1/rag/documents/ID``) and of log lines.
"""

from __future__ import annotations

from unicodedata import category

from gritlm.errors import InputError
from gritlm.rag.ingest.metadata import encodable

LONGEST = 512  # bytes of UTF-8
BIDIRECTIONAL = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def check_document_id(document_id: str) -> str:
    """Return the id if it can be used in a URL path and in a line of a log.

    Raises:
        InputError: if the id is empty, ``.`` or ``..``, longer than ``LONGEST`` bytes, or has
            control characters, line breaks, or marks that change the direction of text.
    """
    if not document_id:
        raise InputError("'id' is ''; expected text that is not empty")
    if not encodable(document_id):
        raise InputError("'id' holds half a surrogate pair; expected whole Unicode text")
    shown = repr(document_id[:80])
    if document_id in (".", ".."):
        raise InputError(f"'id' is {shown}, which no URL can name; expected another text")
    if (size := len(document_id.encode())) > LONGEST:
        raise InputError(f"'id' {shown}... has {size:,} bytes; expected at most {LONGEST}")
    if not on_one_line(document_id):
        raise InputError(f"'id' is {shown}; expected no control characters in it")
    return document_id


def on_one_line(name: str) -> bool:
    """Return whether a name has no control characters, line breaks or direction marks."""
    return not any(
        category(letter) in ("Cc", "Zl", "Zp") or letter in BIDIRECTIONAL for letter in name
    )
