"""Several rankings to one.

Reciprocal rank fusion (Cormack et al. 2009): no scale has to be known, only places.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

K = 60  # of the paper: a first place weighs little more than a second one


def reciprocal_ranks(rankings: Sequence[Sequence[str]], *, k: int = K) -> list[str]:
    """All ids, best first: an id scores the sum of ``1 / (k + rank)``, ranks from 1.

    Equal sums stand in the order of the ids.
    """
    scores: defaultdict[str, float] = defaultdict(float)
    for ranking in rankings:
        for rank, name in enumerate(ranking, start=1):
            scores[name] += 1 / (k + rank)
    return sorted(scores, key=lambda name: (-scores[name], name))
