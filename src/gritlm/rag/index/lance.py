"""LanceDB table of an index: opening, scanning, indices, and error translation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from math import isqrt
from pathlib import Path
from typing import Any

import lancedb
import pyarrow as pa
from lancedb.index import FTS, IvfSq
from lancedb.table import Table

from gritlm.errors import GritLMError, InputError, did_you_mean
from gritlm.rag.identity import ModelIdentity
from gritlm.rag.index import schema
from gritlm.rag.index.checks import COLUMN, rows_of
from gritlm.rag.index.filters import Where
from gritlm.rag.kvstore.errors import StoreFullError
from gritlm.rag.workspace_marker import is_store
from gritlm.runtime import private_folder

TABLE = "passages"
WORDS = ("title", "text")
ORIGIN = re.compile(r",? ?/\S+\.rs:\d+:\d+")  # source location in a message of the library
UNKNOWN = re.compile(r"No field named [`'\"]?([^`'\".\s]+)")
FILES = re.compile(r"\(IO\)|Not found: /|appear to be a Lance file|permission denied", re.I)
FULL = re.compile(r"no space left|file too large|quota exceeded", re.I)
REFUSED = re.compile(r"permission denied|read-only file system", re.I)


class IndexFailedError(GritLMError, RuntimeError):
    """Failed read or write of an index: damaged files, no permission, no network."""


class IndexFullError(IndexFailedError, StoreFullError):
    """Disk full while writing an index; everything acknowledged before is complete."""


@contextmanager
def told(uri: str, where: Where | None = None) -> Iterator[None]:
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
            reason = f"there is no column {field[1]!r}{did_you_mean(field[1], schema.SHOWN)}"
        raise InputError(f"filter {where!r} cannot be used: {reason}") from error


def _is_lances(error: Exception) -> bool:
    """Return whether LanceDB raises such errors; no module exports the type of its panics."""
    return isinstance(error, ValueError | RuntimeError | OSError) or _is_panic(error)


def _is_of_files(error: Exception, reason: str) -> bool:
    return bool(FILES.search(reason)) or isinstance(error, OSError) or _is_panic(error)


def _is_panic(error: Exception) -> bool:
    return type(error).__name__ == "RustPanic"


def opened(uri: str, maker: ModelIdentity | None, *, create: bool) -> Table:
    """Open the table of an index, or create it.

    Args:
        uri: folder or address of the index.
        maker: identity of the model; needed to create the table.
        create: create the table if it does not exist.

    Raises:
        InputError: if the table does not exist and is not to be created, or ``uri`` is a file.
        IndexFailedError: if the table cannot be read.
    """
    if "://" not in uri:  # LanceDB would create the folder
        if Path(uri).is_file():
            raise InputError(f"{uri} is a file; expected a folder for the index")
        if not create and not Path(uri).is_dir():
            raise InputError(_missing(uri))
        if create:
            private_folder(Path(uri))
    with told(uri):
        database = lancedb.connect(uri, read_consistency_interval=timedelta(0))
        if TABLE in database.list_tables(limit=1000).tables:
            return database.open_table(TABLE)
        if not create or maker is None:
            raise InputError(_missing(uri))
        return database.create_table(TABLE, schema=schema.table_schema(maker), exist_ok=True)


def index_words(table: Table) -> None:
    """Create the missing full-text indices of titles and texts.

    The tokenizer splits words by Unicode rules, so scripts without spaces work too.
    """
    indexed = {column for config in table.list_indices() for column in config.columns}
    for column in WORDS:
        if column not in indexed:
            table.create_index(column, config=FTS(base_tokenizer="icu"))


def has_checks(table: Table) -> bool:
    """Return whether the rows have checksums; a table of version 1 has no checksums."""
    return COLUMN in table.schema.names


def scan(
    table: Table, where: str | None, columns: Sequence[str], *, rows: int | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the rows that match a condition, in storage order, with their checksums.

    Args:
        table: table of the index.
        where: SQL condition; None for all rows.
        columns: columns to read.
        rows: rows per batch; None for LanceDB's default.
    """
    checks = [COLUMN] if has_checks(table) else []
    query = table.search().select([*columns, *checks])
    if where is not None:
        query = query.where(where)
    for batch in query.to_batches(batch_size=rows):
        yield from rows_of(pa.Table.from_batches([batch]))


def index_vectors(table: Table) -> None:
    """Create or replace the approximate index of the vectors.

    It is IVF with eight-bit scalar quantisation and sqrt(rows) partitions: built 20 times faster
    than a graph index, and as exact once the best candidates are compared by full vectors.
    """
    parts = max(1, isqrt(table.count_rows()))
    table.create_index("vector", config=IvfSq(distance_type="cosine", num_partitions=parts))


def not_indexed(table: Table) -> int:
    """Return the number of rows outside the vector index; all rows if there is no index."""
    for config in table.list_indices():
        if config.columns == ["vector"]:
            return int(config.num_unindexed_rows or 0)
    return table.count_rows()


def advice(uri: str, reason: str = "") -> str:
    """Return advice for a failure, as the last part of a message."""
    if FULL.search(reason):
        return "free some space and try again: the rows stored before are complete"
    if REFUSED.search(reason):
        return "allow this user to read and write there"
    first = "see that it can be reached; " if "://" in uri else ""
    return f"{first}if its files are damaged, {remedy(uri)}"


def remedy(uri: str) -> str:
    """Return the command that rebuilds a damaged table."""
    return f"run: gritlm store rebuild {_store_of(uri)}"


def _store_of(uri: str) -> str:
    """Return the workspace of an index, or the placeholder STORE if it is unknown."""
    folder = Path(uri).parent
    return "STORE" if "://" in uri or not is_store(folder) else str(folder)


def _missing(uri: str) -> str:
    return f"there is no index at {uri}; create one with: gritlm index FOLDER --to STORE"
