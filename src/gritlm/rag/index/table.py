"""LanceDB table of an index: opening, creation, and its indices of words and vectors."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from datetime import timedelta
from math import isqrt
from pathlib import Path

import lancedb
import pyarrow as pa
from lancedb.index import FTS, IvfSq
from lancedb.query import (
    BooleanQuery,
    FullTextOperator,
    FullTextQuery,
    MultiMatchQuery,
    Occur,
)
from lancedb.table import Table

from gritlm.errors import InputError
from gritlm.rag.identity import ModelIdentity
from gritlm.rag.index import schema
from gritlm.rag.index.lance_errors import lance_errors
from gritlm.runtime import private_folder

TABLE = "passages"
WORDS = ("title", "text")  # columns of the search by words
PAIRS = "pairs"  # column of the pairs of characters; missing in older tables
_LETTERS = (  # Chinese with its iteration marks, and Japanese
    r"\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    r"\U00020000-\U0003ffff"
)
_RUN = re.compile(rf"[{_LETTERS}]+|[\uac00-\ud7a3]+")  # or Korean
_LINE_END = re.compile(rf"(?<=[{_LETTERS}])[^\S\n]*\n[^\S\n]*(?=[{_LETTERS}])")


def open_table(uri: str, maker: ModelIdentity | None, *, create: bool) -> Table:
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
    with lance_errors(uri):
        database = lancedb.connect(uri, read_consistency_interval=timedelta(0))
        if TABLE in database.list_tables(limit=1000).tables:
            return database.open_table(TABLE)
        if not create or maker is None:
            raise InputError(_missing(uri))
        made = with_pairs_field(schema.table_schema(maker))
        return database.create_table(TABLE, schema=made, exist_ok=True)


def has_pairs(table: Table) -> bool:
    """Return whether a table has the pairs of characters of its texts."""
    return PAIRS in table.schema.names


def with_pairs_field(found: pa.Schema) -> pa.Schema:
    """Return a schema with the column of pairs of characters."""
    return found if PAIRS in found.names else found.append(pa.field(PAIRS, pa.string()))


def with_pairs(rows: pa.Table) -> pa.Table:
    """Return rows with the pairs of characters of their titles and texts."""
    texts = zip(*(rows.column(name).to_pylist() for name in WORDS), strict=True)
    pairs = [character_pairs("\n\n".join(each)) or None for each in texts]
    kept = rows.drop_columns([PAIRS]) if PAIRS in rows.column_names else rows
    return kept.append_column(PAIRS, pa.array(pairs, pa.string()))


def character_pairs(text: str) -> str:
    """Return the pairs of neighbouring characters of Chinese, Japanese and Korean words.

    These words have no spaces between them, or have particles at their ends, so a dictionary may
    split a text and a question differently. Other text has no pairs.
    """
    plain = _LINE_END.sub("", unicodedata.normalize("NFKC", text))
    runs = _RUN.findall(plain)
    return " ".join(run[start : start + 2] for run in runs for start in range(max(1, len(run) - 1)))


def words_query(table: Table, words: str) -> FullTextQuery:
    """Return the query of a search by words: any word, or any pair of characters."""
    pairs = character_pairs(words) if has_pairs(table) else ""
    query = _any_of(words, WORDS)
    if not pairs:
        return query
    return BooleanQuery([(Occur.SHOULD, query), (Occur.SHOULD, _any_of(pairs, (PAIRS,)))])


def _any_of(words: str, columns: Sequence[str]) -> MultiMatchQuery:
    return MultiMatchQuery(words, list(columns), boosts=None, operator=FullTextOperator.OR)


def index_words(table: Table) -> None:
    """Create the missing full-text indices of titles, texts and pairs of characters.

    The tokenizer of titles and texts splits words by Unicode rules and a dictionary, so scripts
    without spaces work too. Pairs are separated by spaces.
    """
    pairs = FTS(base_tokenizer="whitespace", stem=False, remove_stop_words=False)
    configs = dict.fromkeys(WORDS, FTS(base_tokenizer="icu"))
    configs |= {PAIRS: pairs} if has_pairs(table) else {}
    indexed = {column for config in table.list_indices() for column in config.columns}
    for column, config in configs.items():
        if column not in indexed:
            table.create_index(column, config=config)


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


def _missing(uri: str) -> str:
    return f"there is no index at {uri}; create one with: gritlm index FOLDER --to STORE"
