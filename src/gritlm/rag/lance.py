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
from lancedb.index import FTS, IvfSq
from lancedb.table import Table

from gritlm.errors import GritLMError, InputError, did_you_mean
from gritlm.rag import schema
from gritlm.rag.filters import Where
from gritlm.rag.keys import Maker

TABLE = "passages"
WORDS = ("title", "text")
ORIGIN = re.compile(r",? ?/\S+\.rs:\d+:\d+")  # where in its own code the library failed
UNKNOWN = re.compile(r"No field named [`'\"]?([^`'\".\s]+)")
FILES = re.compile(r"\(IO\)|Not found: /|appear to be a Lance file|permission denied", re.I)
FULL = re.compile(r"no space left|file too large|quota exceeded", re.I)
REFUSED = re.compile(r"permission denied|read-only file system", re.I)


class IndexFailedError(GritLMError, RuntimeError):
    """The table of an index cannot be read or written: a full disk, damage, no network."""


@contextmanager
def told(place: str, where: Where | None = None) -> Iterator[None]:
    """What LanceDB raises as errors of ours.

    Args:
        place: of the table.
        where: filter of the search within, the likely reason if it fails.
    """
    try:
        yield
    except (ValueError, RuntimeError, OSError) as error:
        if isinstance(error, GritLMError):
            raise
        said = ORIGIN.sub("", str(error)).strip()
        if where is None or FILES.search(said) or isinstance(error, OSError):
            raise IndexFailedError(
                f"the index {place} failed: {said}; {_advice(place, said)}"
            ) from error
        field = UNKNOWN.search(said)
        if field:
            said = f"there is no column {field[1]!r}{did_you_mean(field[1], schema.SHOWN)}"
        raise InputError(f"filter {where!r} cannot be used: {said}") from error


def opened(place: str, maker: Maker | None, *, create: bool) -> Table:
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


def scan(
    table: Table, where: str | None, columns: Sequence[str], *, rows: int | None = None
) -> Iterator[dict[str, Any]]:
    """Rows that fulfil a condition, as they are stored.

    Args:
        rows: that are read together; None for as many as LanceDB takes.
    """
    query = table.search().select(list(columns))
    if where is not None:
        query = query.where(where)
    for batch in query.to_batches(batch_size=rows):
        yield from batch.to_pylist()


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


def _advice(place: str, said: str) -> str:
    """What to do about a failure."""
    if FULL.search(said):
        return "free some space and do the same again: what was there is there still"
    if REFUSED.search(said):
        return "allow this user to read and write there"
    again = "run the same `gritlm index` again: the key/value blocks are kept apart and stay"
    if "://" in place:
        return f"see that it can be reached; if its files are damaged, delete them and {again}"
    return f"if its files are damaged, delete the folder {place} and {again}"


def _missing(place: str) -> str:
    return f"there is no index at {place}; make one with: gritlm index FOLDER --to STORE"
