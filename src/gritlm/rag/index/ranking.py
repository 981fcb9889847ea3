"""Search of a table for one question: by vector, or fused with a ranking by words.

Passages with the same text are one hit. Shapes: D of a vector.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from gritlm.rag.index.passage_rows import FIELDS, to_passage
from gritlm.rag.index.passage_table import PassageTable, Row, Wanted
from gritlm.rag.types import Hit, Passage

DEEP = 4  # depth of each ranking that is fused, in multiples of top_k
DEEPEST = 40  # least depth
SPARE = 32  # extra rows read: equal scores are sorted by id, equal texts merged
WIDER = 4  # factor of the limit of the next read, when equal texts leave too few hits
WIDEST = 4096  # most rows of a read
NAMED = 32  # other documents with the same text that a hit names
FUSION_K = 60  # of the paper: a first place weighs little more than a second one

Scored = tuple[float, Passage]
Check = Callable[[Iterable[Row]], Iterator[Row]]


@dataclass(frozen=True)
class TableQuery:
    """Search of a table for one question.

    Attributes:
        table: rows of the index.
        vector_D: vector of the question, of length 1.
        wanted: selection of the passages.
        exact: compare all vectors instead of the candidates of the approximate index.
        metadata: read the metadata of passages.
        sound: yields the undamaged rows of those read.
    """

    table: PassageTable
    vector_D: np.ndarray
    wanted: Wanted
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

        def read(limit: int, wanted: Wanted) -> list[Row]:
            columns = self._columns()
            return self.table.nearest(self.vector_D, limit, wanted, columns, exact=self.exact)

        return self._texts(read, count)

    def worded(self, words: str, count: int) -> list[Scored]:
        """Return passages of ``count`` distinct texts by words (BM25), with their cosines."""

        def read(limit: int, wanted: Wanted) -> list[Row]:
            return self.table.worded(words, limit, wanted, self._columns())

        return self._texts(read, count)

    def _texts(self, read: Callable[[int, Wanted], list[Row]], count: int) -> list[Scored]:
        """Read undamaged rows until they hold ``count`` distinct texts or no rows are left.

        Args:
            read: returns selected rows in order, at most a given number.
            count: number of distinct texts.
        """
        scored: list[Scored] = []
        seen: set[str] = set()
        limit = count + SPARE
        while True:
            before = len(seen)
            rows = read(limit, replace(self.wanted, without=tuple(seen)))
            for row in self.sound(rows):
                scored.append((self._score(row["vector"]), to_passage(row)))
                seen.add(row["text"])
            if len(seen) >= count or len(rows) < limit:
                return scored
            wider = max(limit, min(WIDER * limit, WIDEST))
            if wider == limit and len(seen) == before:  # all rows of this read are damaged
                return scored
            limit = wider

    def _columns(self) -> list[str]:
        return [*FIELDS, *(["metadata"] if self.metadata else []), "text", "vector"]

    def _score(self, vector_D: np.ndarray) -> float:
        return _cosine(np.dot(vector_D, self.vector_D))


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
