"""SQL of an index in PostgreSQL: all values are parameters. Shapes: D of a vector."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from psycopg import sql

from gritlm.rag.index.databases import terms
from gritlm.rag.index.passage_rows import COLUMN, FIELDS
from gritlm.rag.index.passage_table import Row, Wanted

EXTENSION = "SELECT extversion FROM pg_extension WHERE extname = 'vector'"
STORED = (*FIELDS, "metadata", "text", "vector", COLUMN, "terms", "names")
LARGEST_WORDS = 100_000  # characters whose words are indexed; the limit of a tsvector is 1 MB
ESCAPED = (("\x1b", "\x1b1"), ("\x00", "\x1b0"))  # PostgreSQL stores no zero characters

Statement = sql.SQL | sql.Composed
Query = tuple[Statement, list[Any]]


class Statements:
    """Statements for one table, with quoted names.

    Attributes:
        table_name: name of the table.
        manifest_name: name of the table with the identity of the model.
    """

    def __init__(self, table: str) -> None:
        self.table_name = table
        self.manifest_name = f"{table}_manifest"
        self._table = sql.Identifier(table)
        self._manifest = sql.Identifier(self.manifest_name)

    def create(self, dimension: int) -> Iterator[Statement]:
        """Yield the statements that create both tables and their indices."""
        yield sql.SQL("CREATE EXTENSION IF NOT EXISTS vector")
        yield sql.SQL(
            "CREATE TABLE {} (id text NOT NULL, document_id text NOT NULL, title text NOT NULL, "
            "number bigint NOT NULL, start bigint NOT NULL, "
            '"end" bigint NOT NULL, passages bigint NOT NULL, content text NOT NULL, '
            "metadata text NOT NULL, text text NOT NULL, vector vector({}) NOT NULL, "
            '"check" bytea NOT NULL, terms text[] NOT NULL, names text[] NOT NULL, '
            "words tsvector GENERATED ALWAYS AS "
            "(to_tsvector('simple', left(title || ' ' || text, {}))) STORED)"
        ).format(self._table, sql.Literal(dimension), sql.Literal(LARGEST_WORDS))
        for column, method in (
            ("id", "hash"),
            ("document_id", "hash"),
            ("terms", "gin"),
            ("words", "gin"),
        ):
            yield sql.SQL("CREATE INDEX {} ON {} USING {} ({})").format(
                sql.Identifier(f"{self.table_name}_{column}"),
                self._table,
                sql.SQL(method),
                sql.Identifier(column),
            )
        yield sql.SQL(
            "CREATE TABLE {} (version bigint NOT NULL, passages bigint NOT NULL, "
            "identity text NOT NULL)"
        ).format(self._manifest)

    @cached_property
    def only_one(self) -> Statement:
        """Statement that waits until no other process creates tables."""
        return sql.SQL("SELECT pg_advisory_xact_lock(hashtext({}))").format(
            sql.Literal(self.table_name)
        )

    @cached_property
    def first_state(self) -> Statement:
        """Statement that stores the identity of the model."""
        return sql.SQL("INSERT INTO {} VALUES (0, 0, %s)").format(self._manifest)

    @cached_property
    def state(self) -> Statement:
        """Statement that returns the number of changes, of passages, and the identity."""
        return sql.SQL("SELECT version, passages, identity FROM {}").format(self._manifest)

    @cached_property
    def lock(self) -> Statement:
        """Statement that waits until no other transaction changes the table."""
        return sql.SQL("SELECT version FROM {} FOR UPDATE").format(self._manifest)

    @cached_property
    def changed(self) -> Statement:
        """Statement that counts a change and its rows."""
        return sql.SQL("UPDATE {} SET version = version + 1, passages = passages + %s").format(
            self._manifest
        )

    @cached_property
    def delete(self) -> Statement:
        """Statement that deletes the rows of documents."""
        return sql.SQL("DELETE FROM {} WHERE document_id = ANY(%s)").format(self._table)

    @cached_property
    def insert(self) -> Statement:
        """Statement that adds a row."""
        return sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
            self._table, _columns(STORED), sql.SQL(", ").join(map(sql.Placeholder, STORED))
        )

    @cached_property
    def index_vectors(self) -> Statement:
        """Statement that creates the approximate index of the vectors."""
        return sql.SQL(
            "CREATE INDEX IF NOT EXISTS {} ON {} USING hnsw (vector vector_ip_ops)"
        ).format(sql.Identifier(f"{self.table_name}_vector"), self._table)

    def scan(self, wanted: Wanted, columns: Sequence[str]) -> Query:
        """Return the query of all selected rows."""
        where, values = _condition(wanted)
        return self._select(columns) + where, values

    def nearest(
        self,
        vector_D: np.ndarray,
        limit: int,
        wanted: Wanted,
        columns: Sequence[str],
        *,
        exact: bool,
    ) -> Query:
        """Return the query of the rows with the largest product with a vector."""
        where, values = _condition(wanted)
        # A second order would keep the approximate index from being used.
        order = " ORDER BY vector <#> %s::vector" + (", id" if exact else "") + " LIMIT %s"
        query = self._select(columns) + where + sql.SQL(order)
        return query, [*values, _written(vector_D), limit]

    def worded(self, words: str, limit: int, wanted: Wanted, columns: Sequence[str]) -> Query:
        """Return the query of the rows that have some of these words, best first."""
        where, values = _condition(wanted)
        any_of = (
            "(SELECT string_agg(quote_literal(lexeme), ' | ')::tsquery "
            "FROM unnest(to_tsvector('simple', %s)))"
        )
        fits = sql.SQL(f" words @@ {any_of}")
        query = self._select(columns) + (where + sql.SQL(" AND") if values else sql.SQL(" WHERE"))
        order = sql.SQL(f" ORDER BY ts_rank_cd(words, {any_of}, 1) DESC, id LIMIT %s")
        asked = escaped(words[:LARGEST_WORDS])
        return query + fits + order, [*values, asked, asked, limit]

    def _select(self, columns: Sequence[str]) -> sql.Composed:
        return sql.SQL("SELECT {} FROM {}").format(_columns([*columns, COLUMN]), self._table)


def search_settings(*, exact: bool, candidates: int, iterative: bool) -> list[str]:
    """Return the statements that set a search up for its transaction."""
    if exact:
        return ["SET LOCAL enable_indexscan = off"]
    settings = [f"SET LOCAL hnsw.ef_search = {max(100, int(candidates))}"]
    return [*settings, *(["SET LOCAL hnsw.iterative_scan = strict_order"] if iterative else [])]


def values_of(row: Row) -> dict[str, Any]:
    """Return the stored values of a sealed row."""
    metadata = json.loads(row["metadata"])
    found = {name: row[name] for name in (*FIELDS, "metadata", COLUMN)}
    found["text"] = row["text"]
    for name in ("id", "document_id", "title", "text"):
        found[name] = escaped(row[name])
    found["vector"] = _written(row["vector"])
    return found | {"terms": terms.terms_of(metadata), "names": _names(metadata)}


def row(values: Sequence[Any], columns: Sequence[str]) -> Row:
    """Return a row read in binary form, with its checksums."""
    found = dict(zip([*columns, COLUMN], values, strict=True))
    for name in ("id", "document_id", "title", "text"):
        if name in found:
            found[name] = unescaped(found[name])
    if "vector" in found:  # two bytes each of dimension and padding, then big-endian float32
        found["vector"] = np.frombuffer(found["vector"], dtype=">f4", offset=4).astype(np.float32)
    return found


def escaped(text: str) -> str:
    """Return text without zero characters, from which :func:`unescaped` returns the original."""
    for character, code in ESCAPED:
        text = text.replace(character, code)
    return text


def unescaped(text: str) -> str:
    """Return the original of an escaped text."""
    for character, code in reversed(ESCAPED):
        text = text.replace(code, character)
    return text


def _condition(wanted: Wanted) -> tuple[sql.Composed, list[Any]]:
    """Return the condition of a selection, with its values; empty for all rows."""
    found: list[tuple[str, list[Any]]] = []
    if wanted.first:
        found.append(("number = %s", [0]))
    if wanted.documents is not None:
        found.append(("document_id = ANY(%s)", [_texts(wanted.documents)]))
    if wanted.ids is not None:
        found.append(("id = ANY(%s)", [_texts(wanted.ids)]))
    if wanted.where is not None:
        found += map(_fits, terms.conditions(wanted.where, database="PostgreSQL"))
    if wanted.without:
        found.append(("NOT text = ANY(%s)", [_texts(wanted.without)]))
    if not found:
        return sql.Composed([]), []
    text = " WHERE " + " AND ".join(f"({each})" for each, _ in found)
    return sql.Composed([sql.SQL(text)]), [value for _, values in found for value in values]


def _fits(condition: terms.Condition) -> tuple[str, list[Any]]:
    if condition.is_column:
        return f"{condition.name} = ANY(%s)", [_texts(condition.allowed)]
    if condition.absent:
        return "terms && %s OR NOT names @> %s", [list(condition.allowed), _names([condition.name])]
    return "terms && %s", [list(condition.allowed)]


def _texts(values: Any) -> list[str]:
    return sorted(map(escaped, values))


def _names(names: Any) -> list[str]:
    return [json.dumps(name) for name in names]


def _written(vector_D: np.ndarray) -> str:
    return json.dumps(vector_D.tolist())


def _columns(names: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, names))
