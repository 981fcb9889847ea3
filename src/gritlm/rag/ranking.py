"""Passages of a LanceDB table by vector and by words. Shapes: D of a vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from typing import cast

import numpy as np
from lancedb.query import (
    FullTextOperator,
    LanceFtsQueryBuilder,
    LanceVectorQueryBuilder,
    MultiMatchQuery,
)
from lancedb.table import Table

from gritlm.rag.fusion import reciprocal_ranks
from gritlm.rag.lance import WORDS
from gritlm.rag.passages import Hit, Passage
from gritlm.rag.schema import SHOWN, to_passage

DEEP = 4  # times the hits asked for: how far down each ranking goes into a fused one
DEEPEST = 40  # at least
SPARE = 32  # rows read besides those asked for, so that equal scores can be put in order
REFINE = 4  # times the rows asked for are compared exactly, of those that the ANN index found
PROBES = 64  # parts of the ANN index that are searched, at least
PROBED = 4  # and at least one part in so many

Scored = tuple[float, Passage]


@dataclass(frozen=True)
class Search:
    """One question to a table.

    Attributes:
        vector_D: the question's, of length 1.
        where: SQL that passages fulfil.
        exact: compare with all vectors, not only with those that the approximate index names.
        columns: of a passage that are read.
    """

    table: Table
    vector_D: np.ndarray
    where: str | None
    exact: bool
    columns: Sequence[str] = SHOWN

    def hits(self, top_k: int, *, words: str | None) -> list[Hit]:
        """The best passages by vector; with words, by both rankings fused."""
        if words is None:
            return _hits([self.nearest(top_k)], top_k)
        depth = max(DEEP * top_k, DEEPEST)
        return _hits([self.nearest(depth), self.worded(words, depth)], top_k)

    def nearest(self, count: int) -> list[Scored]:
        """By cosine, the nearest first, equal ones in the order of their ids."""
        found = self.table.search(self.vector_D, vector_column_name="vector", query_type="vector")
        query = cast(LanceVectorQueryBuilder, found).distance_type("cosine")
        query = query.limit(count + SPARE).select([*self.columns, "_distance"])
        if self.where is not None:
            query = query.where(self.where)
        if self.exact:
            query = query.bypass_vector_index()
        else:
            probes = max(PROBES, isqrt(self.table.count_rows()) // PROBED)
            query = query.nprobes(probes).refine_factor(REFINE)
            if self.where is not None:  # the nearest parts may hold too few rows that fulfil it
                query = query.maximum_nprobes(0)
        rows = query.to_list()
        rows.sort(key=lambda row: (row["_distance"], row["id"]))
        return [(_cosine(1 - row["_distance"]), to_passage(row)) for row in rows[:count]]

    def worded(self, words: str, count: int) -> list[Scored]:
        """By words (BM25), the best first; with the cosine all the same."""
        asked = MultiMatchQuery(words, list(WORDS), boosts=None, operator=FullTextOperator.OR)
        found = self.table.search(asked, query_type="fts")
        query = cast(LanceFtsQueryBuilder, found)
        query = query.limit(count + SPARE).select([*self.columns, "vector", "_score"])
        if self.where is not None:
            query = query.where(self.where)
        rows = query.to_list()
        rows.sort(key=lambda row: (-row["_score"], row["id"]))
        return [(self._score(row["vector"]), to_passage(row)) for row in rows[:count]]

    def _score(self, vector_D: Sequence[float]) -> float:
        return _cosine(np.dot(np.asarray(vector_D, dtype=np.float32), self.vector_D))


def _hits(rankings: Sequence[Sequence[Scored]], top_k: int) -> list[Hit]:
    scored = {
        passage.id: (score, passage) for each in reversed(rankings) for score, passage in each
    }
    order = reciprocal_ranks([[passage.id for _, passage in each] for each in rankings])
    return [
        Hit(scored[name][1], score=scored[name][0], rank=rank)
        for rank, name in enumerate(order[:top_k], start=1)
    ]


def _cosine(value: float) -> float:
    return min(1.0, max(-1.0, float(value)))
