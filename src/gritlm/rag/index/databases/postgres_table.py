"""Passages in a table of PostgreSQL with pgvector: every change is a transaction.

Shapes: D of a vector.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
from psycopg import Connection
from psycopg_pool import ConnectionPool

from gritlm.errors import InputError
from gritlm.rag.identity import ModelIdentity
from gritlm.rag.index import passage_rows
from gritlm.rag.index.databases import postgres_sql, terms
from gritlm.rag.index.databases.postgres_address import PostgresAddress, connect, postgres_errors
from gritlm.rag.index.filters import Where
from gritlm.rag.index.passage_table import PassageTable, Row, Wanted
from gritlm.rag.index.schema import TableIdentity, check_identity, made_by

PAGE = 512  # rows of a read
INDEXED_DIMENSIONS = 2000  # most dimensions of an approximate index of pgvector
MOST_CANDIDATES = 1000  # of an approximate search
ITERATIVE = (0, 8)  # first version of pgvector with iterative searches

Pool = ConnectionPool[Connection[tuple[Any, ...]]]


class PostgresTable(PassageTable):
    """Table of passages; see :class:`gritlm.rag.index.passage_table.PassageTable`."""

    ranks_words = True

    def __init__(self, pool: Pool, address: PostgresAddress) -> None:
        self._pool = pool
        self._address = address
        self._sql = postgres_sql.Statements(address.table)
        self._iterative = False  # approximate searches go on until a filter is filled

    @classmethod
    def open(cls, uri: str, maker: ModelIdentity | None, *, create: bool) -> PostgresTable:
        """Open a table, or create it; see :func:`gritlm.rag.index.addresses.open_table`."""
        address = PostgresAddress.of(uri)
        with postgres_errors(uri):
            pool = connect(address)
        table = cls(pool, address)
        try:
            with postgres_errors(uri):
                table._prepare(maker, create=create)
        except BaseException:
            pool.close()
            raise
        return table

    def errors(self, _where: Where | None = None, /) -> AbstractContextManager[None]:
        """Translate the exceptions of PostgreSQL; a filter is never their cause."""
        return postgres_errors(self._address.uri)

    def check_filter(self, where: Where) -> None:
        """Refuse SQL, and what no database of ours takes."""
        terms.conditions(where, database="PostgreSQL")

    def version(self) -> int:
        """Return the number of changes."""
        return int(self._state()[0])

    def count(self) -> int:
        """Return the number of rows."""
        return int(self._state()[1])

    def scan(
        self, wanted: Wanted, columns: Sequence[str], *, rows: int | None = None
    ) -> Iterator[Row]:
        """Yield rows in the order of storage, all of one version of the table."""
        query, values = self._sql.scan(wanted, columns)
        with (
            self._pool.connection() as connection,
            connection.transaction(),
            connection.cursor("passages", binary=True) as cursor,
        ):
            cursor.itersize = rows or PAGE
            for found in cursor.execute(query, values):
                yield postgres_sql.row(found, columns)

    def nearest(
        self,
        vector_D: np.ndarray,
        limit: int,
        wanted: Wanted,
        columns: Sequence[str],
        *,
        exact: bool,
    ) -> list[Row]:
        """Return the rows nearest to a vector, ties sorted by id."""
        columns = list(dict.fromkeys([*columns, "vector"]))
        with self._pool.connection() as connection, connection.transaction():
            filtered = bool(wanted.where or wanted.without)
            exact = exact or 4 * limit > MOST_CANDIDATES or (filtered and not self._iterative)
            for setting in postgres_sql.search_settings(
                exact=exact, candidates=4 * limit, iterative=self._iterative
            ):
                connection.execute(setting)
            query, values = self._sql.nearest(vector_D, limit, wanted, columns, exact=exact)
            with connection.cursor(binary=True) as cursor:
                found = cursor.execute(query, values).fetchall()
        rows = [postgres_sql.row(each, columns) for each in found]
        return passage_rows.sorted_by_cosine(rows, vector_D)

    def worded(self, words: str, limit: int, wanted: Wanted, columns: Sequence[str]) -> list[Row]:
        """Return the rows that fit words best by ``ts_rank_cd``, ties sorted by id."""
        query, values = self._sql.worded(words, limit, wanted, columns)
        with self._pool.connection() as connection, connection.cursor(binary=True) as cursor:
            found = cursor.execute(query, values).fetchall()
        return [postgres_sql.row(each, columns) for each in found]

    def write(self, batch: pa.Table, replaced: Collection[str]) -> None:
        """Add rows and remove the old rows of documents, in one transaction."""
        rows = [postgres_sql.values_of(row) for row in passage_rows.rows_of(batch)]
        # Another process may have added the same documents.
        self._change(rows, {*replaced, *batch.column("document_id").to_pylist()})

    def delete(self, documents: Collection[str]) -> None:
        """Remove the rows of documents, in one transaction."""
        self._change([], documents)

    def upgrade(self) -> bool:
        """Return False: there is no older version."""
        return False

    def has_large_metadata(self) -> bool:
        """Return False: there is no older version."""
        return False

    def optimise(self, *, exact_below: int) -> None:
        """Create the approximate index of the vectors once the table is large."""
        _, rows, identity = self._state()
        if rows >= exact_below and identity.dimension <= INDEXED_DIMENSIONS:
            with self._pool.connection() as connection:
                connection.execute(self._sql.index_vectors)

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()

    def _state(self) -> tuple[int, int, TableIdentity]:
        """Return the number of changes, the number of rows, and the identity of the model."""
        with self._pool.connection() as connection:
            found = connection.execute(self._sql.state).fetchone()
        if found is None:
            raise InputError(_not_ours(self._address.uri))
        return found[0], found[1], TableIdentity(**json.loads(found[2]))

    def _change(self, rows: Sequence[dict[str, Any]], replaced: Collection[str]) -> None:
        with self._pool.connection() as connection, connection.transaction():
            connection.execute(self._sql.lock)
            removed = connection.execute(
                self._sql.delete, [sorted(map(postgres_sql.escaped, replaced))]
            ).rowcount
            with connection.cursor() as cursor:
                if rows:
                    cursor.executemany(self._sql.insert, rows)
            connection.execute(self._sql.changed, [len(rows) - removed])

    def _prepare(self, maker: ModelIdentity | None, *, create: bool) -> None:
        uri = self._address.uri
        with self._pool.connection() as connection, connection.transaction():
            if not self._exists(connection, self._sql.manifest_name):
                if not create or maker is None:
                    raise InputError(_missing(uri))
                self._create(connection, maker)
            self._iterative = self._iterates(connection)
        check_identity(self._state()[2], maker, place=uri)

    def _create(self, connection: Connection[Any], maker: ModelIdentity) -> None:
        """Create both tables, unless another process has just done so."""
        connection.execute(self._sql.only_one)
        if self._exists(connection, self._sql.manifest_name):
            return
        if self._exists(connection, self._sql.table_name):
            raise InputError(_not_ours(self._address.uri))
        for statement in self._sql.create(maker.dimension):
            connection.execute(statement)
        identity = json.dumps(asdict(made_by(maker)))
        connection.execute(self._sql.first_state, [identity])

    def _exists(self, connection: Connection[Any], name: str) -> bool:
        found = connection.execute("SELECT to_regclass(%s) IS NOT NULL", [name]).fetchone()
        return bool(found and found[0])

    def _iterates(self, connection: Connection[Any]) -> bool:
        found = connection.execute(postgres_sql.EXTENSION).fetchone()
        version = str(found[0]) if found else "0"
        return tuple(int(part) for part in version.split(".")[:2]) >= ITERATIVE


def _missing(uri: str) -> str:
    return f"there is no index at {uri}; create one with: gritlm index FOLDER --to STORE --index"


def _not_ours(uri: str) -> str:
    return f"{uri} holds a table that gritlm did not make; name another one with ?table=NAME"
