"""Addresses of an index: a folder or address of LanceDB, Qdrant, or PostgreSQL."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote, urlsplit

from gritlm.errors import InputError, require_libraries
from gritlm.rag.identity import ModelIdentity
from gritlm.rag.index.lance_table import LanceTable
from gritlm.rag.index.passage_table import PassageTable

EMBEDDED_QDRANT = "qdrant"  # short for a folder of Qdrant in the workspace
QDRANT = ("qdrant", "qdrant+http", "qdrant+https")
POSTGRES = ("postgresql", "postgres")


def open_table(uri: str, maker: ModelIdentity | None, *, create: bool) -> PassageTable:
    """Open the table at an address, or create it.

    Args:
        uri: folder or address.
        maker: identity of the model; None to open an existing table without its model.
        create: create the table if it does not exist.

    Raises:
        InputError: if the address cannot be used, the table does not exist and is not to be
            created, or another model made it.
        IndexFailedError: if the table cannot be read.
        MissingExtraError: if the client of the database is not installed.
    """
    scheme = scheme_of(uri)
    if scheme in QDRANT:
        require_libraries(("qdrant_client",), what=f"the index {uri} needs", extra="qdrant")
        from gritlm.rag.index.databases.qdrant_table import QdrantTable

        return QdrantTable.open(uri, maker, create=create)
    if scheme in POSTGRES:
        libraries = ("psycopg", "psycopg_pool")
        require_libraries(libraries, what=f"the index {uri} needs", extra="postgres")
        from gritlm.rag.index.databases.postgres_table import PostgresTable

        return PostgresTable.open(uri, maker, create=create)
    return LanceTable.open(uri, maker, create=create)


def is_lance(uri: str) -> bool:
    """Return whether LanceDB holds the table at an address."""
    return scheme_of(uri) not in (*QDRANT, *POSTGRES)


def scheme_of(uri: str) -> str:
    """Return the scheme of an address; empty for a folder."""
    return uri.partition("://")[0].lower() if "://" in uri else ""


def check(uri: str) -> None:
    """Refuse an address that has a password: it is stored, and part of messages.

    Raises:
        InputError: if it has a password or a key.
    """
    scheme = scheme_of(uri)
    if scheme not in (*QDRANT, *POSTGRES):
        return
    parts = urlsplit(uri)
    query = parts.query.lower()
    if parts.password or "password=" in query or "api_key=" in query or "api-key=" in query:
        shown = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()
        where = (
            "set QDRANT_API_KEY"
            if scheme in QDRANT
            else "set PGPASSWORD, or write it into ~/.pgpass"
        )
        raise InputError(
            f"the address of the index {shown} has a password or key, and addresses are stored in "
            f"the folder and shown in messages; leave it out and {where}"
        )


def resolved(index: str | None, place: Path, *, folder: str) -> str:
    """Return the address of the index of a workspace.

    Args:
        index: address in the settings of the workspace; None for LanceDB in its folder.
        place: folder of the workspace.
        folder: name of the folder for LanceDB.
    """
    if index is None:
        return str(place / folder)
    if index == EMBEDDED_QDRANT:
        return f"qdrant://{quote(str((place / EMBEDDED_QDRANT).absolute()))}"
    return index
