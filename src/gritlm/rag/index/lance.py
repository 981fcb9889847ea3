"""A LanceDB table: opened, read row by row, its indices, and what it says when it fails."""

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
ORIGIN = re.compile(r",? ?/\S+\.rs:\d+:\d+")  # where in its own code the library failed
UNKNOWN = re.compile(r"No field named [`'\"]?([^`'\".\s]+)")
FILES = re.compile(r"\(IO\)|Not found: /|appear to be a Lance file|permission denied", re.I)
FULL = re.compile(r"no space left|file too large|quota exceeded", re.I)
REFUSED = re.compile(r"permission denied|read-only file system", re.I)


class IndexFailedError(GritLMError, RuntimeError):
    """The table of an index cannot be read or written: damage, no permission, no network."""


class IndexFullError(IndexFailedError, StoreFullError):
    """The disk takes no more of an index; what was acknowledged before is whole."""


@contextmanager
def told(place: str, where: Where | None = None) -> Iterator[None]:
    """What LanceDB raises as errors of ours.

    Args:
        place: of the table.
        where: filter of the search within, the likely reason if it fails.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, GritLMError) or not _is_lances(error):
            raise
        reason = ORIGIN.sub("", str(error)).strip()
        if where is None or _is_of_files(error, reason):
            problem = IndexFullError if FULL.search(reason) else IndexFailedError
            raise problem(f"the index {place} failed: {reason}; {advice(place, reason)}") from error
        field = UNKNOWN.search(reason)
        if field:
            reason = f"there is no column {field[1]!r}{did_you_mean(field[1], schema.SHOWN)}"
        raise InputError(f"filter {where!r} cannot be used: {reason}") from error


def _is_lances(error: Exception) -> bool:
    """Whether LanceDB raises this; a panic of its own code has a type that no module exports."""
    return isinstance(error, ValueError | RuntimeError | OSError) or _is_panic(error)


def _is_of_files(error: Exception, reason: str) -> bool:
    return bool(FILES.search(reason)) or isinstance(error, OSError) or _is_panic(error)


def _is_panic(error: Exception) -> bool:
    return type(error).__name__ == "RustPanic"


def opened(place: str, maker: ModelIdentity | None, *, create: bool) -> Table:
    """The table of an index, made where there is none.

    Raises:
        InputError: where there is none and none is to be made, and for a place that is a file.
        IndexFailedError: for a table that cannot be read.
    """
    if "://" not in place:  # LanceDB would make the folder
        if Path(place).is_file():
            raise InputError(f"{place} is a file; expected a folder for the index")
        if not create and not Path(place).is_dir():
            raise InputError(_missing(place))
        if create:
            private_folder(Path(place))
    with told(place):
        database = lancedb.connect(place, read_consistency_interval=timedelta(0))
        if TABLE in database.list_tables(limit=1000).tables:
            return database.open_table(TABLE)
        if not create or maker is None:
            raise InputError(_missing(place))
        return database.create_table(TABLE, schema=schema.table_schema(maker), exist_ok=True)


def index_words(table: Table) -> None:
    """Indices of the words of titles and texts, where there are none yet.

    Words are told apart as Unicode does, which knows scripts without spaces, too.
    """
    there = {column for config in table.list_indices() for column in config.columns}
    for column in WORDS:
        if column not in there:
            table.create_index(column, config=FTS(base_tokenizer="icu"))


def has_checks(table: Table) -> bool:
    """Whether its rows carry checksums; those of a table of version 1 do not."""
    return COLUMN in table.schema.names


def scan(
    table: Table, where: str | None, columns: Sequence[str], *, rows: int | None = None
) -> Iterator[dict[str, Any]]:
    """Rows that fulfil a condition, as they are stored, with their checksums.

    Args:
        rows: that are read together; None for as many as LanceDB takes.
    """
    checks = [COLUMN] if has_checks(table) else []
    query = table.search().select([*columns, *checks])
    if where is not None:
        query = query.where(where)
    for batch in query.to_batches(batch_size=rows):
        yield from rows_of(pa.Table.from_batches([batch]))


def index_vectors(table: Table) -> None:
    """An approximate index of the vectors, or one that replaces what there is.

    Eight bits a number, in sqrt(rows) parts: made 20 times faster than a graph, as exact after
    the comparison of the best with their full vectors.
    """
    parts = max(1, isqrt(table.count_rows()))
    table.create_index("vector", config=IvfSq(distance_type="cosine", num_partitions=parts))


def not_indexed(table: Table) -> int:
    """Rows that are not in the index of vectors; all, where there is none."""
    for config in table.list_indices():
        if config.columns == ["vector"]:
            return int(config.num_unindexed_rows or 0)
    return table.count_rows()


def advice(place: str, reason: str = "") -> str:
    """What to do about a failure."""
    if FULL.search(reason):
        return "free some space and do the same again: what was there is there still"
    if REFUSED.search(reason):
        return "allow this user to read and write there"
    first = "see that it can be reached; " if "://" in place else ""
    return f"{first}if its files are damaged, {remedy(place)}"


def remedy(place: str) -> str:
    """Return the command that makes a damaged table again."""
    return f"run: gritlm store rebuild {_store_of(place)}"


def _store_of(place: str) -> str:
    """The folder of the engine that an index belongs to, as far as it can be known."""
    folder = Path(place).parent
    return "STORE" if "://" in place or not is_store(folder) else str(folder)


def _missing(place: str) -> str:
    return f"there is no index at {place}; make one with: gritlm index FOLDER --to STORE"
