"""Cursors of the document list: the id of a document, or a short stand-in for a long id."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from hashlib import sha256

LONGEST = 512  # characters of a cursor; stores of earlier versions hold longer ids
_PREFIX = 400  # characters of a long id; its hash follows
_SHORTENED = re.compile(rf"(.{{{_PREFIX}}})~([0-9a-f]{{64}})", re.DOTALL)


def cursor_of(document_id: str) -> str:
    """Return the id, or a stand-in of at most ``LONGEST`` characters for a longer one."""
    if len(document_id) <= LONGEST:
        return document_id
    return f"{document_id[:_PREFIX]}~{_hash(document_id)}"


def index_behind(ids: Sequence[str], cursor: str) -> int:
    """Return the index of the first id behind a cursor.

    The document of the cursor may have been deleted. The index is then the one that its id would
    have; for a stand-in, that of an id with the same beginning.

    Args:
        ids: ids of all documents, sorted.
        cursor: a cursor as `cursor_of` returns it.
    """
    match = _SHORTENED.fullmatch(cursor)
    if match is not None:
        prefix, digest = match.groups()
        index = bisect_left(ids, prefix)
        while index < len(ids) and ids[index].startswith(prefix):
            if len(ids[index]) > LONGEST and _hash(ids[index]) == digest:
                return index + 1
            index += 1
    return bisect_right(ids, cursor)


def _hash(document_id: str) -> str:
    return sha256(document_id.encode(errors="surrogatepass")).hexdigest()
