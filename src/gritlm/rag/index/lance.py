"""Queries of a LanceDB table: scans, search by vector and by words (BM25), and LanceDB's errors.

Shapes: D of a vector.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from math import isqrt
from pathlib import Path
from typing import Any, cast

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
from gritlm.rag.index.passage_rows import COLUMN, FIELDS, SHOWN, rows_of, to_passage
from gritlm.rag.kvstore.errors import StoreFullError
from gritlm.rag.types import Hit, Passage
from gritlm.rag.workspace_marker import is_store

WORDS = ("title", "text")  # columns of the search by words
DEEP = 4  # depth of each ranking that is fused, in multiples of top_k
DEEPEST = 40  # least depth
SPARE = 32  # extra rows read: equal scores are sorted by id, equal texts merged
WIDER = 4  # factor of the limit of the next read, when equal texts leave too few hits
WIDEST = 4096  # most rows of a read
NAMED = 32  # other documents with the same text that a hit names
REFINE = 4  # candidates of the ANN index compared by full vectors, in multiples of the limit
PROBES = 64  # least number of partitions of the ANN index that are searched
PROBED = 4  # share of the partitions that is searched: at least one in this number
FUSION_K = 60  # of the paper: a first place weighs little more than a second one

ORIGIN = re.compile(r",? ?/\S+\.rs:\d+:\d+")  # source location in a message of the library
UNKNOWN = re.compile(r"No field named [`'\"]?([^`'\".\s]+)")
FILES = re.compile(r"\(IO\)|Not found: /|appear to be a Lance file|permission denied", re.I)
FULL = re.compile(r"no space left|file too large|quota exceeded", re.I)
REFUSED = re.compile(r"permission denied|read-only file system", re.I)

Scored = tuple[float, Passage]
Rows = list[dict[str, Any]]
Check = Callable[[Iterable[dict[str, Any]]], Iterator[dict[str, Any]]]


class IndexFailedError(GritLMError, RuntimeError):
    """Failed read or write of an index: damaged files, no permission, no network."""


class IndexFullError(IndexFailedError, StoreFullError):
    """Disk full while writing an index; everything acknowledged before is complete."""


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
        return "free some space and try again: the rows stored before are complete"
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


@dataclass(frozen=True)
class TableQuery:
    """Search of a table for one question.

    Attributes:
        table: table of the index.
        vector_D: vector of the question, of length 1.
        where: SQL condition on the passages; None for all.
        exact: compare all vectors instead of the candidates of the approximate index.
        metadata: read the metadata of passages.
        sound: yields the undamaged rows of those read.
    """

    table: Table
    vector_D: np.ndarray
    where: str | None
    exact: bool
    metadata: bool = True
    sound: Check = iter

    def hits(self, top_k: int, *, words: str | None) -> list[Hit]:
        """Return the best passages by vector; if ``words`` is given, by both rankings fused."""
        if words is None:
            return _hits([self.nearest(top_k)], top_k, depth=top_k)
        depth = max(DEEP * top_k, DEEPEST)
        return _hits([self.nearest(depth), self.worded(words, depth)], top_k, depth=depth)

    def nearest(self, count: int) -> list[Scored]:
        """Return passages of ``count`` distinct texts by cosine, ties sorted by id."""
        return self._texts(self._near, count)

    def worded(self, words: str, count: int) -> list[Scored]:
        """Return passages of ``count`` distinct texts by words (BM25), with their cosines."""

        def read_rows(limit: int, seen: Collection[str]) -> Rows:
            return self._worded(words, limit, seen)

        return self._texts(read_rows, count)

    def _texts(self, read_rows: Callable[[int, Collection[str]], Rows], count: int) -> list[Scored]:
        """Read undamaged rows until they hold ``count`` distinct texts or no rows are left.

        Args:
            read_rows: returns rows in order: at most ``limit`` rows, without the texts in ``seen``.
            count: number of distinct texts.
        """
        scored: list[Scored] = []
        seen: set[str] = set()
        limit = count + SPARE
        while True:
            before = len(seen)
            rows = read_rows(limit, seen)
            for row in self.sound(rows):
                scored.append((self._score(row["vector"]), to_passage(row)))
                seen.add(row["text"])
            if len(seen) >= count or len(rows) < limit:
                return scored
            wider = max(limit, min(WIDER * limit, WIDEST))
            if wider == limit and len(seen) == before:  # all rows of this read are damaged
                return scored
            limit = wider

    def _near(self, limit: int, seen: Collection[str]) -> Rows:
        builder = self.table.search(self.vector_D, vector_column_name="vector", query_type="vector")
        query = cast(LanceVectorQueryBuilder, builder).distance_type("cosine")
        query = query.limit(limit).select([*self._columns(), "_distance"])
        where = _but_not(self.where, seen)
        if where is not None:
            query = query.where(where)
        if self.exact:
            query = query.bypass_vector_index()
        else:
            probes = max(PROBES, isqrt(self.table.count_rows()) // PROBED)
            query = query.nprobes(probes).refine_factor(REFINE)
            if where is not None:  # the nearest partitions may hold too few rows that match
                query = query.maximum_nprobes(0)
        return sorted(rows_of(query.to_arrow()), key=lambda row: (row["_distance"], row["id"]))

    def _worded(self, words: str, limit: int, seen: Collection[str]) -> Rows:
        match_query = MultiMatchQuery(words, list(WORDS), boosts=None, operator=FullTextOperator.OR)
        builder = self.table.search(match_query, query_type="fts")
        query = cast(LanceFtsQueryBuilder, builder)
        query = query.limit(limit).select([*self._columns(), "_score"])
        where = _but_not(self.where, seen)
        if where is not None:
            query = query.where(where)
        return sorted(rows_of(query.to_arrow()), key=lambda row: (-row["_score"], row["id"]))

    def _columns(self) -> list[str]:
        """Return the columns of a hit and its checksums, which a table of version 1 lacks."""
        checks = [COLUMN] if has_checks(self.table) else []
        return [*FIELDS, *(["metadata"] if self.metadata else []), "text", "vector", *checks]

    def _score(self, vector_D: np.ndarray) -> float:
        return _cosine(np.dot(vector_D, self.vector_D))


def _but_not(where: str | None, texts: Collection[str]) -> str | None:
    """Return the SQL condition combined with the exclusion of these texts."""
    if not texts:
        return where
    others = f"NOT ({filters.among('text', texts)})"
    return others if where is None else f"({where}) AND {others}"


def _hits(rankings: Sequence[Sequence[Scored]], top_k: int, *, depth: int) -> list[Hit]:
    """Return the best texts of one or several fused rankings, each as its best passage.

    Args:
        rankings: scored passages, best first.
        top_k: largest number of hits.
        depth: number of texts of each ranking that are fused.
    """
    best: dict[str, Scored] = {}
    holders: dict[str, dict[str, None]] = {}
    for scored in chain.from_iterable(rankings):
        best.setdefault(scored[1].text, scored)
        holders.setdefault(scored[1].text, {})[scored[1].document_id] = None
    by_id = {passage.id: (score, passage) for score, passage in best.values()}
    order = reciprocal_ranks([_best_ids(ranking, best)[:depth] for ranking in rankings])
    return [
        _hit(*by_id[name], rank=rank, holders=holders[by_id[name][1].text])
        for rank, name in enumerate(order[:top_k], start=1)
    ]


def reciprocal_ranks(rankings: Sequence[Sequence[str]], *, k: int = FUSION_K) -> list[str]:
    """Return the ids of several rankings, best first, by reciprocal rank fusion.

    An id scores the sum of ``1 / (k + rank)`` over the rankings, with ranks from 1; ties are sorted
    by id (Cormack et al. 2009). Scores on different scales need no calibration.
    """
    scores: defaultdict[str, float] = defaultdict(float)
    for ranking in rankings:
        for rank, name in enumerate(ranking, start=1):
            scores[name] += 1 / (k + rank)
    return sorted(scores, key=lambda name: (-scores[name], name))


def _best_ids(ranking: Sequence[Scored], best: dict[str, Scored]) -> list[str]:
    """Return the distinct texts of a ranking, as the id of each text's best passage."""
    return list(dict.fromkeys(best[passage.text][1].id for _, passage in ranking))


def _hit(score: float, passage: Passage, *, rank: int, holders: Iterable[str]) -> Hit:
    others = [name for name in holders if name != passage.document_id]
    return Hit(passage, score=score, rank=rank, also_in=tuple(others[:NAMED]))


def _cosine(value: float) -> float:
    return min(1.0, max(-1.0, float(value)))


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
