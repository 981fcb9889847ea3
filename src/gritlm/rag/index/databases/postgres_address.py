"""Addresses of PostgreSQL, its connections, and its errors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import psycopg
from psycopg import Connection
from psycopg_pool import ConnectionPool, PoolTimeout

from gritlm.errors import GritLMError, InputError, one_line
from gritlm.rag.index.passage_table import FREE_SPACE, FULL, IndexFailedError, IndexFullError

TABLE = "gritlm_passages"
NAMES = re.compile(r"[a-z_][a-z0-9_]{0,47}")  # room for the names of indices: 63 in PostgreSQL
CONNECTIONS = 4  # most, each for one search at a time
SECONDS = 30  # until a connection is there
FULL_CODES = ("53100", "53400")  # disk_full, configuration_limit_exceeded


@dataclass(frozen=True)
class PostgresAddress:
    """Address of a table.

    Attributes:
        uri: address as given, for messages.
        database: address of the database, as libpq takes it.
        table: name of the table.
    """

    uri: str
    database: str
    table: str

    @classmethod
    def of(cls, uri: str) -> PostgresAddress:
        """Return a parsed address: ``postgresql://user@host/database?table=name``.

        Raises:
            InputError: if the name of the table cannot be used.
        """
        parts = urlsplit(uri)
        pairs = parse_qsl(parts.query, keep_blank_values=True)
        table = dict(pairs).get("table", TABLE)
        if not NAMES.fullmatch(table):
            raise InputError(
                f"table={table!r} in the address of the index; expected a name of lowercase "
                "letters, digits and _, with at most 48 characters"
            )
        query = urlencode([pair for pair in pairs if pair[0] != "table"])
        return cls(uri, parts._replace(query=query).geturl(), table)


def connect(address: PostgresAddress) -> ConnectionPool[Connection[tuple[Any, ...]]]:
    """Return a pool of connections, the first of which is open.

    Raises:
        psycopg.Error: if the server cannot be reached.
    """
    # The pool hides why a connection fails.
    psycopg.connect(address.database, connect_timeout=SECONDS).close()
    pool = ConnectionPool(
        address.database,
        min_size=1,
        max_size=CONNECTIONS,
        timeout=SECONDS,
        check=ConnectionPool.check_connection,
        open=True,
    )
    pool.wait(SECONDS)
    return pool


@contextmanager
def postgres_errors(uri: str) -> Iterator[None]:
    """Translate the exceptions of PostgreSQL.

    Raises:
        IndexFullError: if the disk is full.
        IndexFailedError: if the table cannot be read or written.
    """
    try:
        yield
    except GritLMError:
        raise
    except (psycopg.Error, PoolTimeout, OSError) as error:
        reason = one_line(error, limit=300).strip() or type(error).__name__
        full = getattr(error, "sqlstate", None) in FULL_CODES or FULL.search(reason)
        problem = IndexFullError if full else IndexFailedError
        raise problem(
            f"the index {uri} failed: {reason}; {_advice(error, full=bool(full))}"
        ) from error


def _advice(error: Exception, *, full: bool) -> str:
    if full:
        return FREE_SPACE
    if isinstance(error, psycopg.errors.FeatureNotSupported | psycopg.errors.UndefinedFile):
        return "install the extension pgvector on the server"
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return "grant this user the right to create and change tables there"
    return "see that the server can be reached with this address and the password of PGPASSWORD"
