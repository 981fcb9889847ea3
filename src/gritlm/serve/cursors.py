"""Where a page of documents goes on: the id of the last one, or a short stand-in for a long id."""

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


def place_behind(ids: Sequence[str], cursor: str) -> int:
    """Return the place of the first id behind a cursor.

    A document that was deleted after its page was read may be the one of the cursor: the place is
    then the one that its id would have; for a stand-in, that of an id with the same beginning.

    Args:
        ids: of all documents, sorted.
    """
    found = _SHORTENED.fullmatch(cursor)
    if found is not None:
        prefix, wanted = found.groups()
        place = bisect_left(ids, prefix)
        while place < len(ids) and ids[place].startswith(prefix):
            if len(ids[place]) > LONGEST and _hash(ids[place]) == wanted:
                return place + 1
            place += 1
    return bisect_right(ids, cursor)


def _hash(document_id: str) -> str:
    return sha256(document_id.encode(errors="surrogatepass")).hexdigest()
