"""Addresses of Qdrant, its clients, and its errors."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from qdrant_client import QdrantClient
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import ApiException

from gritlm.errors import GritLMError, InputError, one_line
from gritlm.rag.index.lance_errors import remedy
from gritlm.rag.index.passage_table import FREE_SPACE, FULL, IndexFailedError, IndexFullError
from gritlm.runtime import private_folder

COLLECTION = "gritlm_passages"
PORT = 6333
SECONDS = 60  # of a request to a server
KEY = "QDRANT_API_KEY"
IN_USE = "already accessed by another instance"


@dataclass(frozen=True)
class QdrantAddress:
    """Address of a collection.

    Attributes:
        uri: address as given, for messages.
        folder: folder of an embedded database; None for a server.
        url: address of a server.
        collection: name of the collection.
    """

    uri: str
    folder: Path | None
    url: str
    collection: str

    @classmethod
    def of(cls, uri: str) -> QdrantAddress:
        """Return a parsed address: ``qdrant:///folder`` or ``qdrant://host:port/collection``.

        Raises:
            InputError: if it names neither a folder nor a host.
        """
        try:
            parts = urlsplit(uri)
            port = parts.port or PORT
        except ValueError as error:
            raise _unusable(uri, str(error)) from None
        path = unquote(parts.path)
        if not parts.hostname:
            if parts.scheme != "qdrant" or not path.strip("/"):
                raise _unusable(uri, "it names neither a folder nor a host")
            return cls(uri, Path(path), "", COLLECTION)
        name = path.strip("/") or COLLECTION
        if "/" in name:
            raise _unusable(uri, f"{name!r} cannot name a collection")
        scheme = parts.scheme.partition("+")[2] or "http"
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        return cls(uri, None, f"{scheme}://{host}:{port}", name)


def connect(address: QdrantAddress, *, create: bool) -> QdrantClient:
    """Return a client of an embedded database or a server."""
    if address.folder is None:
        key = os.environ.get(KEY) or None
        return QdrantClient(
            url=address.url, api_key=key, timeout=SECONDS, check_compatibility=False
        )
    if create:
        private_folder(address.folder)
    return QdrantClient(path=str(address.folder), force_disable_check_same_thread=True)


@contextmanager
def qdrant_errors(uri: str) -> Iterator[None]:
    """Translate the exceptions of Qdrant and of its embedded database.

    Raises:
        IndexFullError: if the disk is full.
        IndexFailedError: if the collection cannot be read or written.
    """
    try:
        yield
    except GritLMError:
        raise
    except (ApiException, QdrantException, OSError, RuntimeError, ValueError, sqlite3.Error) as e:
        reason = one_line(e, limit=300).strip() or type(e).__name__
        if IN_USE in reason:
            raise IndexFailedError(
                f"the index {uri} is in use by another process, and an embedded Qdrant has one "
                "process; stop the other one, or use a Qdrant server (qdrant://host:6333)"
            ) from e
        problem = IndexFullError if FULL.search(reason) else IndexFailedError
        raise problem(f"the index {uri} failed: {reason}; {_advice(uri, reason)}") from e


def _advice(uri: str, reason: str) -> str:
    if FULL.search(reason):
        return FREE_SPACE
    return f"see that it can be reached; if it is damaged, {remedy(uri)}"


def _unusable(uri: str, reason: str) -> InputError:
    return InputError(
        f"the address {uri!r} of an index cannot be used: {reason}; expected qdrant:///folder, "
        "qdrant://host:6333/collection or qdrant+https://host/collection"
    )
