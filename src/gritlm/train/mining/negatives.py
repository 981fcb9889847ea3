"""Hard negatives: passages that look like an answer to the model and are none.

Names and meaning of the settings are those of ``mine_hard_negatives`` of sentence-transformers.

Shapes: Q queries, P passages, D dimensions, K nearest passages.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

import torch
from torch import Tensor

from gritlm.errors import InputError, choice
from gritlm.train.objectives.losses import similarity

QUERIES = 256
PASSAGES = 65536  # of one block of similarities: 64 MiB

SAMPLINGS = ("top", "random")


@dataclass(frozen=True)
class MiningConfig:
    """Which passages become negatives. Scores are cosines.

    Attributes:
        num_negatives: how many a query has at the end; those that it has already count.
        range_min: so many of the nearest allowed passages are passed over: they may be answers.
        range_max: only so many of the nearest passages are looked at, positives not counted.
        max_score, min_score: bounds of a negative's score.
        absolute_margin: a negative scores at least so much less than the query's worst positive.
        relative_margin: the same as a share of that positive's score: at 0.05 it scores 5% less.
        sampling: the nearest ones that are allowed, or random ones of them.
        seed: of the random ones.
        query_max_len, passage_max_len: tokens a text is cut to; None: the model's default.
    """

    num_negatives: int = 5
    range_min: int = 0
    range_max: int = 50
    max_score: float | None = None
    min_score: float | None = None
    absolute_margin: float | None = None
    relative_margin: float | None = None
    sampling: Literal["top", "random"] = "top"
    seed: int = 42
    query_max_len: int | None = None
    passage_max_len: int | None = None

    def __post_init__(self) -> None:
        choice(self.sampling, SAMPLINGS, name="sampling")
        if self.num_negatives < 1:
            raise InputError(f"num_negatives = {self.num_negatives}; expected at least 1")
        if self.range_min < 0:
            raise InputError(f"range_min = {self.range_min}; expected at least 0")
        if self.range_max - self.range_min < self.num_negatives:
            raise InputError(
                f"range_min = {self.range_min} and range_max = {self.range_max} leave no room for "
                f"{self.num_negatives} negatives; raise range_max or lower num_negatives"
            )
        low = self.min_score
        high = self.max_score
        if low is not None and high is not None and low > high:
            raise InputError(f"min_score = {low} is above max_score = {high}; no score is between")

    def ceiling(self, positive: float) -> float:
        """The highest score a negative may have beside a positive of this score."""
        bounds = [float("inf") if self.max_score is None else self.max_score]
        if self.absolute_margin is not None:
            bounds.append(positive - self.absolute_margin)
        if self.relative_margin is not None:
            bounds.append(positive - abs(positive) * self.relative_margin)
        return min(bounds)

    @property
    def floor(self) -> float:
        return -float("inf") if self.min_score is None else self.min_score


def choose(
    query_QD: Tensor,
    passage_PD: Tensor,
    positives: Sequence[Collection[int]],
    settings: MiningConfig,
    *,
    kept: Sequence[Collection[int]] | None = None,
) -> list[list[int]]:
    """Indices of each query's new negatives, nearest first; fewer where too few are allowed.

    Args:
        query_QD: vectors to compare by inner product, usually of length 1.
        positives: passages of each query that are no negatives; margins are measured from the one
            with the lowest score.
        kept: negatives each query has already: they count, and are not chosen again.

    Returns:
        One list a query. Similarities are computed in float32, and never all at once.
    """
    random = Random(settings.seed)
    found = []
    own = [set(indices) for indices in positives]
    old = [set(indices) for indices in kept] if kept is not None else [set() for _ in own]
    for start in range(0, len(query_QD), QUERIES):
        block_QD = query_QD[start : start + QUERIES]
        rows = own[start : start + QUERIES]
        depth = settings.range_max + max(map(len, rows))
        score_QK, index_QK = nearest(block_QD, passage_PD, depth)
        for row, (scores, indices) in enumerate(
            zip(score_QK.tolist(), index_QK.tolist(), strict=True)
        ):
            worst = _worst(block_QD[row], passage_PD, rows[row])
            ranked = list(zip(indices, scores, strict=True))[: settings.range_max + len(rows[row])]
            allowed = _allowed(ranked, rows[row], settings, worst)
            found.append(_chosen(allowed, old[start + row], settings, random))
    return found


def nearest(query_QD: Tensor, passage_PD: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Scores and indices (Q, K) of the ``count`` nearest passages, or of all when there are fewer.

    Only a block of the passages is compared at a time.
    """
    device = query_QD.device
    best_QK = torch.empty(len(query_QD), 0, device=device)
    index_QK = torch.empty(len(query_QD), 0, dtype=torch.long, device=device)
    for start in range(0, len(passage_PD), PASSAGES):
        score_QP = similarity(query_QD, passage_PD[start : start + PASSAGES].to(device))
        score_QK, place_QK = score_QP.topk(min(count, score_QP.shape[1]), dim=1)
        best_QK = torch.cat([best_QK, score_QK], dim=1)
        index_QK = torch.cat([index_QK, place_QK + start], dim=1)
        best_QK, order_QK = best_QK.topk(min(count, best_QK.shape[1]), dim=1)
        index_QK = index_QK.gather(1, order_QK)
    return best_QK, index_QK


def _worst(query_D: Tensor, passage_PD: Tensor, positives: set[int]) -> float:
    """Score of the positive that is furthest away; nothing bounds a query without any."""
    if not positives:
        return float("inf")
    positive_PD = passage_PD[sorted(positives)].to(query_D.device)
    return float(similarity(query_D[None], positive_PD).min())


def _allowed(
    ranked: Sequence[tuple[int, float]], positives: set[int], settings: MiningConfig, worst: float
) -> list[int]:
    """The passages that may be negatives, nearest first."""
    low = settings.floor
    high = settings.ceiling(worst)
    allowed = [i for i, score in ranked if i not in positives and low <= score <= high]
    return allowed[settings.range_min : settings.range_max]


def _chosen(
    allowed: list[int], kept: set[int], settings: MiningConfig, random: Random
) -> list[int]:
    new = [index for index in allowed if index not in kept]
    count = min(len(new), max(0, settings.num_negatives - len(kept)))
    if settings.sampling == "top":
        return new[:count]
    return [new[place] for place in sorted(random.sample(range(len(new)), count))]
