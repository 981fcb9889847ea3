"""Passages of a LanceDB table by vector and by words. Shapes: D of a vector."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any, cast

import numpy as np
from lancedb.query import (
    FullTextOperator,
    LanceFtsQueryBuilder,
    LanceVectorQueryBuilder,
    MultiMatchQuery,
)
from lancedb.table import Table

from gritlm.rag.fusion import reciprocal_ranks
from gritlm.rag.index import filters
from gritlm.rag.index.checks import COLUMN, FIELDS, rows_of
from gritlm.rag.index.lance import WORDS
from gritlm.rag.index.schema import to_passage
from gritlm.rag.types import Hit, Passage

DEEP = 4  # times the hits asked for: how far down each ranking goes into a fused one
DEEPEST = 40  # at least
SPARE = 32  # rows read besides those asked for: equal scores are put in order, equal texts joined
WIDER = 4  # times the rows of the step before, where texts that are equal left too few
WIDEST = 4096  # rows of a step
NAMED = 32  # documents that a hit names besides its own
REFINE = 4  # times the rows asked for are compared exactly, of those that the ANN index found
PROBES = 64  # parts of the ANN index that are searched, at least
PROBED = 4  # and at least one part in so many

Scored = tuple[float, Passage]
Rows = list[dict[str, Any]]
Check = Callable[[Iterable[dict[str, Any]]], Iterator[dict[str, Any]]]


@dataclass(frozen=True)
class TableQuery:
    """One question to a table.

    Attributes:
        vector_D: the question's, of length 1.
        where: SQL that passages fulfil.
        exact: compare with all vectors, not only with those that the approximate index names.
        metadata: read the metadata of passages.
        sound: the rows that are what was written, of rows as they were read.
    """

    table: Table
    vector_D: np.ndarray
    where: str | None
    exact: bool
    metadata: bool = True
    sound: Check = iter

    def hits(self, top_k: int, *, words: str | None) -> list[Hit]:
        """Return the best passages by vector; with words, by both rankings fused."""
        if words is None:
            return _hits([self.nearest(top_k)], top_k, depth=top_k)
        depth = max(DEEP * top_k, DEEPEST)
        return _hits([self.nearest(depth), self.worded(words, depth)], top_k, depth=depth)

    def nearest(self, count: int) -> list[Scored]:
        """Return passages of so many texts by cosine, equal ones in the order of their ids."""
        return self._texts(self._near, count)

    def worded(self, words: str, count: int) -> list[Scored]:
        """Return passages of so many texts by words (BM25), with their cosines."""

        def found(limit: int, seen: Collection[str]) -> Rows:
            return self._worded(words, limit, seen)

        return self._texts(found, count)

    def _texts(self, found: Callable[[int, Collection[str]], Rows], count: int) -> list[Scored]:
        """Sound rows until they hold so many texts, or there are no more.

        Args:
            found: rows in order, at most so many, none of some texts.
        """
        scored: list[Scored] = []
        seen: set[str] = set()
        limit = count + SPARE
        while True:
            before = len(seen)
            rows = found(limit, seen)
            for row in self.sound(rows):
                scored.append((self._score(row["vector"]), to_passage(row)))
                seen.add(row["text"])
            if len(seen) >= count or len(rows) < limit:
                return scored
            wider = max(limit, min(WIDER * limit, WIDEST))
            if wider == limit and len(seen) == before:  # all of these rows are damaged
                return scored
            limit = wider

    def _near(self, limit: int, seen: Collection[str]) -> Rows:
        found = self.table.search(self.vector_D, vector_column_name="vector", query_type="vector")
        query = cast(LanceVectorQueryBuilder, found).distance_type("cosine")
        query = query.limit(limit).select([*self._columns(), "_distance"])
        where = _but_not(self.where, seen)
        if where is not None:
            query = query.where(where)
        if self.exact:
            query = query.bypass_vector_index()
        else:
            probes = max(PROBES, isqrt(self.table.count_rows()) // PROBED)
            query = query.nprobes(probes).refine_factor(REFINE)
            if where is not None:  # the nearest parts may hold too few rows that fulfil it
                query = query.maximum_nprobes(0)
        return sorted(rows_of(query.to_arrow()), key=lambda row: (row["_distance"], row["id"]))

    def _worded(self, words: str, limit: int, seen: Collection[str]) -> Rows:
        asked = MultiMatchQuery(words, list(WORDS), boosts=None, operator=FullTextOperator.OR)
        found = self.table.search(asked, query_type="fts")
        query = cast(LanceFtsQueryBuilder, found)
        query = query.limit(limit).select([*self._columns(), "_score"])
        where = _but_not(self.where, seen)
        if where is not None:
            query = query.where(where)
        return sorted(rows_of(query.to_arrow()), key=lambda row: (-row["_score"], row["id"]))

    def _columns(self) -> list[str]:
        """All that a hit shows and is checked by; a table of version 1 has no checksums."""
        checks = [COLUMN] if COLUMN in self.table.schema.names else []
        return [*FIELDS, *(["metadata"] if self.metadata else []), "text", "vector", *checks]

    def _score(self, vector_D: np.ndarray) -> float:
        return _cosine(np.dot(vector_D, self.vector_D))


def _but_not(where: str | None, texts: Collection[str]) -> str | None:
    """SQL: the condition, and none of these texts."""
    if not texts:
        return where
    others = f"NOT ({filters.among('text', texts)})"
    return others if where is None else f"({where}) AND {others}"


def _hits(rankings: Sequence[Sequence[Scored]], top_k: int, *, depth: int) -> list[Hit]:
    """The best texts of rankings to some depth, each as its best passage."""
    best: dict[str, Scored] = {}
    holders: dict[str, dict[str, None]] = {}
    for each in (scored for ranking in rankings for scored in ranking):
        best.setdefault(each[1].text, each)
        holders.setdefault(each[1].text, {})[each[1].document_id] = None
    by_id = {passage.id: (score, passage) for score, passage in best.values()}
    order = reciprocal_ranks([_best_ids(ranking, best)[:depth] for ranking in rankings])
    return [
        _hit(*by_id[name], rank=rank, holders=holders[by_id[name][1].text])
        for rank, name in enumerate(order[:top_k], start=1)
    ]


def _best_ids(ranking: Sequence[Scored], best: dict[str, Scored]) -> list[str]:
    """The texts of a ranking, each once, by the id of the passage that stands for it."""
    return list(dict.fromkeys(best[passage.text][1].id for _, passage in ranking))


def _hit(score: float, passage: Passage, *, rank: int, holders: Iterable[str]) -> Hit:
    others = [name for name in holders if name != passage.document_id]
    return Hit(passage, score=score, rank=rank, also_in=tuple(others[:NAMED]))


def _cosine(value: float) -> float:
    return min(1.0, max(-1.0, float(value)))
