"""How well one order agrees with another.

Shapes: N values.
"""

from __future__ import annotations

from torch import Tensor


def spearman(one_N: Tensor, other_N: Tensor) -> float:
    """Spearman's rank correlation, -1 to 1; 0 where all values of a side are equal."""
    ranks = [average_ranks(values_N) for values_N in (one_N, other_N)]
    one, other = (rank_N - rank_N.mean() for rank_N in ranks)
    scale = float(one.norm() * other.norm())
    return float(one @ other) / scale if scale else 0.0


def average_ranks(values_N: Tensor) -> Tensor:
    """Places in ascending order, from 1 (N,), float64; equal values share the mean of theirs."""
    _, place_N, count_K = values_N.cpu().unique(return_inverse=True, return_counts=True)
    last_K = count_K.cumsum(dim=0).double()
    return (last_K - (count_K - 1) / 2)[place_N]
