"""Passages in a LanceDB table: searches, and changes of one commit each. Shapes: D of a vector."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from math import isqrt
from typing import cast

import numpy as np
import pyarrow as pa
from lancedb.query import LanceFtsQueryBuilder, LanceVectorQueryBuilder
from lancedb.table import Table

from gritlm.rag.identity import ModelIdentity
from gritlm.rag.index import filters, passage_rows, repair, schema, table_files
from gritlm.rag.index.filters import Where
from gritlm.rag.index.lance_errors import lance_errors, raise_translated, remedy
from gritlm.rag.index.passage_table import IndexFailedError, PassageTable, Row, Wanted
from gritlm.rag.index.table import (
    character_pairs,
    has_pairs,
    index_vectors,
    index_words,
    not_indexed,
    open_table,
    with_pairs,
    words_query,
)

log = logging.getLogger(__name__)

KEPT = timedelta(minutes=10)  # age of old versions that are kept for running searches
FEW = 16  # rows per batch where each row may have large metadata
FIRST = "number = 0"  # first passage of each document
REFINE = 4  # candidates of the ANN index compared by full vectors, in multiples of the limit
PROBES = 64  # least number of partitions of the ANN index that are searched
PROBED = 4  # share of the partitions that is searched: at least one in this number


class LanceTable(PassageTable):
    """Table of passages in a folder, or at an address of LanceDB.

    Attributes:
        lance: table of the library.
    """

    ranks_words = True

    def __init__(self, lance_table: Table, maker: ModelIdentity | None, *, uri: str) -> None:
        self.lance = lance_table
        self._maker = maker
        self._uri = uri
        self._warned = False

    @classmethod
    def open(cls, uri: str, maker: ModelIdentity | None, *, create: bool) -> LanceTable:
        """Open a table, or create it; see :meth:`gritlm.rag.index.index.Index.open`."""
        check_files(uri)
        table = open_table(uri, maker, create=create)
        with lance_errors(uri):
            found = table.schema
        schema.check_maker(found, maker, place=uri)
        if create:
            with lance_errors(uri):
                index_words(table)
            table_files.record(uri)
        return cls(table, maker, uri=uri)

    @contextmanager
    def errors(self, where: Where | None = None, /) -> Iterator[None]:
        """Translate LanceDB's exceptions; a filter is named as the cause of a failed search."""
        try:
            yield
        except Exception as error:
            raise_translated(error, self._uri, where)

    def check_filter(self, where: Where) -> None:
        """Refuse a filter that is empty, too long, or has values that metadata cannot hold."""
        filters.condition(where)

    def version(self) -> int:
        """Return the version of the table."""
        return self.lance.version

    def count(self) -> int:
        """Return the number of rows."""
        return self.lance.count_rows()

    def scan(
        self, wanted: Wanted, columns: Sequence[str], *, rows: int | None = None
    ) -> Iterator[Row]:
        """Yield rows with their checksums in the order of storage."""
        return self._scan(condition(wanted), columns, rows=rows)

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
        builder = self.lance.search(vector_D, vector_column_name="vector", query_type="vector")
        query = cast(LanceVectorQueryBuilder, builder).distance_type("cosine")
        query = query.limit(limit).select([*columns, *self._checks(), "_distance"])
        where = condition(wanted)
        if where is not None:
            query = query.where(where)
        query = query.bypass_vector_index() if exact else self._probing(query, where)
        rows = passage_rows.rows_of(query.to_arrow())
        return sorted(rows, key=lambda row: (row["_distance"], row["id"]))

    def _probing(
        self, query: LanceVectorQueryBuilder, where: str | None
    ) -> LanceVectorQueryBuilder:
        """Return a search in the approximate index."""
        partitions = max(PROBES, isqrt(self.count()) // PROBED)
        query = query.nprobes(partitions).refine_factor(REFINE)
        # With a condition, the nearest partitions may hold too few rows that match.
        return query if where is None else query.maximum_nprobes(0)

    def worded(self, words: str, limit: int, wanted: Wanted, columns: Sequence[str]) -> list[Row]:
        """Return the rows that fit words best by BM25, ties sorted by id."""
        self._warn_without_pairs(words)
        builder = self.lance.search(words_query(self.lance, words), query_type="fts")
        query = cast(LanceFtsQueryBuilder, builder)
        query = query.limit(limit).select([*columns, *self._checks(), "_score"])
        where = condition(wanted)
        if where is not None:
            query = query.where(where)
        rows = passage_rows.rows_of(query.to_arrow())
        return sorted(rows, key=lambda row: (-row["_score"], row["id"]))

    def _warn_without_pairs(self, words: str) -> None:
        """Log, once, that Chinese, Japanese and Korean words are searched without their pairs."""
        if self._warned or has_pairs(self.lance) or not character_pairs(words):
            return
        self._warned = True
        log.warning(
            "the index %s has no pairs of characters, so the search by words finds fewer Chinese, "
            "Japanese and Korean words; %s",
            self._uri,
            remedy(self._uri),
        )

    def _scan(
        self, where: str | None, columns: Sequence[str], *, rows: int | None = None
    ) -> Iterator[Row]:
        """Yield the rows that match a condition, in storage order, with their checksums.

        Args:
            where: SQL condition; None for all rows.
            columns: columns to read.
            rows: rows per batch; None for LanceDB's default.
        """
        query = self.lance.search().select([*columns, *self._checks()])
        if where is not None:
            query = query.where(where)
        for batch in query.to_batches(batch_size=rows):
            yield from passage_rows.rows_of(pa.Table.from_batches([batch]))

    def _checks(self) -> list[str]:
        """Return the column of checksums, which a table of version 1 lacks."""
        return [passage_rows.COLUMN] if passage_rows.has_checks(self.lance.schema) else []

    def write(self, batch: pa.Table, replaced: Collection[str]) -> None:
        """Add rows and remove the old rows of documents, in one commit."""
        batch = with_pairs(batch) if has_pairs(self.lance) else batch
        if replaced:
            merge = self.lance.merge_insert("id")
            merge = merge.when_matched_update_all().when_not_matched_insert_all()
            # rows of replaced documents without a successor
            old = filters.among("document_id", replaced)
            merge.when_not_matched_by_source_delete(old).execute(batch)
        else:
            self.lance.add(batch)
        table_files.record(self._uri)

    def delete(self, documents: Collection[str]) -> None:
        """Remove the rows of documents, in one commit."""
        try:
            self.lance.delete(filters.among("document_id", documents))
        finally:
            table_files.record(self._uri)

    def upgrade(self) -> bool:
        """Add checksums to a table of version 1; damaged documents are removed."""
        if passage_rows.has_checks(self.lance.schema):
            return False
        mended = repair.rewrite(self._uri, self.lance, None)
        for line in repair.summary(mended):
            log.warning("%s now has checksums: %s", self._uri, line)
        return True

    def has_large_metadata(self) -> bool:
        """Return whether rows of an older version have metadata of more than 32 KiB."""
        rows = self._scan(passage_rows.LARGE, ("id",), rows=FEW)
        return next(rows, None) is not None

    def optimise(self, *, exact_below: int) -> None:
        """Merge the table's files and update the indices of words and vectors."""
        rows = self.count()
        if rows >= exact_below and not_indexed(self.lance) > rows // 2:
            index_vectors(self.lance)
        self.lance.optimize(cleanup_older_than=KEPT)
        # A connection keeps the files of every index it has used open, so it is replaced.
        self.lance = open_table(self._uri, self._maker, create=False)
        table_files.record(self._uri)

    def close(self) -> None:
        """Do nothing: LanceDB holds no lock and no unwritten data."""


def check_files(uri: str) -> None:
    """Compare the files of a table with their checksums, small files first.

    A damaged file of rows is only logged, because damaged rows are left out of results.

    Raises:
        IndexFailedError: if any other file is damaged, because no row can then be trusted.
    """
    damaged = table_files.damaged_at_opening(uri)
    for name in damaged:
        reason = f"the index {uri} is damaged: {name} is not as it was written"
        if not table_files.is_data(name):
            raise IndexFailedError(f"{reason}; {remedy(uri)}")
        log.warning("%s; its damaged rows are left out; %s", reason, remedy(uri))


def condition(wanted: Wanted) -> str | None:
    """Return the SQL condition of a selection; None for all rows."""
    terms = [FIRST] if wanted.first else []
    if wanted.documents is not None:
        terms.append(filters.among("document_id", wanted.documents))
    if wanted.ids is not None:
        terms.append(filters.among("id", wanted.ids))
    if wanted.where is not None:
        terms.append(f"({filters.condition(wanted.where)})")
    if wanted.without:
        terms.append(f"NOT ({filters.among('text', wanted.without)})")
    return " AND ".join(terms) or None
