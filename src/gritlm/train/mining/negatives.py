"""Selection of hard negatives: similar passages that are not positives.

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
PASSAGES = 65536  # a block of QUERIES x PASSAGES similarities takes 64 MiB

SAMPLINGS = ("top", "random")


@dataclass(frozen=True)
class MiningConfig:
    """Settings for the selection of negatives. Scores are cosines.

    Attributes:
        num_negatives: number of negatives of a query, including existing ones.
        range_min: number of nearest allowed passages to skip, since they may be answers.
        range_max: number of nearest passages to consider, positives not counted.
        max_score, min_score: bounds of the score of a negative.
        absolute_margin: minimum difference of a negative's score to the query's lowest positive.
        relative_margin: the same as a share of the positive's score; 0.05 means 5% less.
        sampling: ``top`` for the nearest allowed passages, ``random`` for random ones of them.
        seed: seed of the random choice.
        query_max_len, passage_max_len: maximum tokens of a text; None: the model's default.
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
        """Return the maximum score of a negative for the score of the lowest positive."""
        bounds = [float("inf") if self.max_score is None else self.max_score]
        if self.absolute_margin is not None:
            bounds.append(positive - self.absolute_margin)
        if self.relative_margin is not None:
            bounds.append(positive - abs(positive) * self.relative_margin)
        return min(bounds)

    @property
    def floor(self) -> float:
        """Least score of a negative; minus infinity without ``min_score``."""
        return -float("inf") if self.min_score is None else self.min_score


def choose(
    query_QD: Tensor,
    passage_PD: Tensor,
    positives: Sequence[Collection[int]],
    settings: MiningConfig,
    *,
    kept: Sequence[Collection[int]] | None = None,
) -> list[list[int]]:
    """Return the indices of each query's new negatives, nearest first.

    Similarities are computed in float32, block by block.

    Args:
        query_QD: vectors of the queries, compared by inner product, usually of length 1.
        passage_PD: vectors of the passages.
        positives: indices of each query's passages that must not be negatives; margins refer to
            the lowest score among them.
        settings: selection of negatives.
        kept: indices of each query's existing negatives, which count and are not chosen again.

    Returns:
        A list for each query, shorter than wanted if too few passages are allowed.
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
    """Return scores and indices (Q, K) of the nearest passages, at most ``count``.

    Passages are compared block by block.

    Args:
        query_QD: vectors of the queries.
        passage_PD: vectors of the passages.
        count: maximum number of passages.
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
    """Return the lowest score of a positive; infinity for a query without positives."""
    if not positives:
        return float("inf")
    positive_PD = passage_PD[sorted(positives)].to(query_D.device)
    return float(similarity(query_D[None], positive_PD).min())


def _allowed(
    ranked: Sequence[tuple[int, float]], positives: set[int], settings: MiningConfig, worst: float
) -> list[int]:
    """Return the passages that may be negatives, nearest first."""
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
