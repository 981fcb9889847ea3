"""Queries of a LanceDB table: scans, search by vector and by words (BM25), and LanceDB's errors.

Shapes: D of a vector.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import isqrt
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
from lancedb.query import (
    FullTextOperator,
    LanceFtsQueryBuilder,
    LanceVectorQueryBuilder,
    MultiMatchQuery,
)
from lancedb.table import Table

from gritlm.errors import GritLMError, InputError, did_you_mean
from gritlm.rag.index import filters
from gritlm.rag.index.filters import Where
from gritlm.rag.index.passage_rows import COLUMN, SHOWN, rows_of
from gritlm.rag.index.passage_table import (
    FREE_SPACE,
    FULL,
    IndexFailedError,
    IndexFullError,
    Row,
    Wanted,
)
from gritlm.rag.workspace_marker import is_store

WORDS = ("title", "text")  # columns of the search by words
FIRST = "number = 0"  # first passage of each document
REFINE = 4  # candidates of the ANN index compared by full vectors, in multiples of the limit
PROBES = 64  # least number of partitions of the ANN index that are searched
PROBED = 4  # share of the partitions that is searched: at least one in this number

ORIGIN = re.compile(r",? ?/\S+\.rs:\d+:\d+")  # source location in a message of the library
UNKNOWN = re.compile(r"No field named [`'\"]?([^`'\".\s]+)")
FILES = re.compile(r"\(IO\)|Not found: /|appear to be a Lance file|permission denied", re.I)
REFUSED = re.compile(r"permission denied|read-only file system", re.I)


@contextmanager
def lance_errors(uri: str, where: Where | None = None) -> Iterator[None]:
    """Translate LanceDB's exceptions into the errors of this package.

    Args:
        uri: folder or address of the index.
        where: filter of the search inside the block, reported as the cause of other failures.

    Raises:
        IndexFullError: if the disk is full.
        IndexFailedError: if the table cannot be read or written.
        InputError: if the filter cannot be used.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, GritLMError) or not _is_lances(error):
            raise
        reason = ORIGIN.sub("", str(error)).strip()
        if where is None or _is_of_files(error, reason):
            problem = IndexFullError if FULL.search(reason) else IndexFailedError
            raise problem(f"the index {uri} failed: {reason}; {advice(uri, reason)}") from error
        field = UNKNOWN.search(reason)
        if field:
            reason = f"there is no column {field[1]!r}{did_you_mean(field[1], SHOWN)}"
        raise InputError(f"filter {where!r} cannot be used: {reason}") from error


def advice(uri: str, reason: str = "") -> str:
    """Return advice for a failure, as the last part of a message."""
    if FULL.search(reason):
        return FREE_SPACE
    if REFUSED.search(reason):
        return "allow this user to read and write there"
    first = "see that it can be reached; " if "://" in uri else ""
    return f"{first}if its files are damaged, {remedy(uri)}"


def remedy(uri: str) -> str:
    """Return the command that rebuilds a damaged table."""
    return f"run: gritlm store rebuild {_store_of(uri)}"


def has_checks(table: Table) -> bool:
    """Return whether the rows have checksums; a table of version 1 has no checksums."""
    return COLUMN in table.schema.names


def checks(table: Table) -> list[str]:
    """Return the column of checksums, which a table of version 1 lacks."""
    return [COLUMN] if has_checks(table) else []


def scan(
    table: Table, where: str | None, columns: Sequence[str], *, rows: int | None = None
) -> Iterator[Row]:
    """Yield the rows that match a condition, in storage order, with their checksums.

    Args:
        table: table of the index.
        where: SQL condition; None for all rows.
        columns: columns to read.
        rows: rows per batch; None for LanceDB's default.
    """
    query = table.search().select([*columns, *checks(table)])
    if where is not None:
        query = query.where(where)
    for batch in query.to_batches(batch_size=rows):
        yield from rows_of(pa.Table.from_batches([batch]))


def nearest(
    table: Table, vector_D: np.ndarray, limit: int, where: str | None, columns: Sequence[str]
) -> LanceVectorQueryBuilder:
    """Return the search of the rows nearest to a vector."""
    builder = table.search(vector_D, vector_column_name="vector", query_type="vector")
    query = cast(LanceVectorQueryBuilder, builder).distance_type("cosine")
    query = query.limit(limit).select([*columns, *checks(table), "_distance"])
    return query if where is None else query.where(where)


def exactly(query: LanceVectorQueryBuilder) -> list[Row]:
    """Return the rows of a search that compares all vectors, ties sorted by id."""
    return _nearest_rows(query.bypass_vector_index())


def approximately(query: LanceVectorQueryBuilder, *, rows: int, filtered: bool) -> list[Row]:
    """Return the rows of a search in the approximate index, ties sorted by id.

    Args:
        query: the search.
        rows: number of rows in the table.
        filtered: the search has a condition.
    """
    query = query.nprobes(max(PROBES, isqrt(rows) // PROBED)).refine_factor(REFINE)
    if filtered:  # the nearest partitions may hold too few rows that match
        query = query.maximum_nprobes(0)
    return _nearest_rows(query)


def worded(
    table: Table, words: str, limit: int, where: str | None, columns: Sequence[str]
) -> list[Row]:
    """Return the rows that fit words best by BM25, ties sorted by id."""
    match_query = MultiMatchQuery(words, list(WORDS), boosts=None, operator=FullTextOperator.OR)
    builder = table.search(match_query, query_type="fts")
    query = cast(LanceFtsQueryBuilder, builder)
    query = query.limit(limit).select([*columns, *checks(table), "_score"])
    if where is not None:
        query = query.where(where)
    return sorted(rows_of(query.to_arrow()), key=lambda row: (-row["_score"], row["id"]))


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


def _nearest_rows(query: LanceVectorQueryBuilder) -> list[Row]:
    return sorted(rows_of(query.to_arrow()), key=lambda row: (row["_distance"], row["id"]))


def _is_lances(error: Exception) -> bool:
    """Return whether LanceDB raises such errors; no module exports the type of its panics."""
    return isinstance(error, ValueError | RuntimeError | OSError) or _is_panic(error)


def _is_of_files(error: Exception, reason: str) -> bool:
    return bool(FILES.search(reason)) or isinstance(error, OSError) or _is_panic(error)


def _is_panic(error: Exception) -> bool:
    return type(error).__name__ == "RustPanic"


def _store_of(uri: str) -> str:
    """Return the workspace of an index, or the placeholder STORE if it is unknown."""
    folder = Path(uri).parent
    return "STORE" if "://" in uri or not is_store(folder) else str(folder)
