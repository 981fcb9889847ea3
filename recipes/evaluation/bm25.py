"""Okapi BM25 ranking of passages."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

from raw import words

K1 = 1.2
B = 0.75  # the usual values


class Ranking:
    """BM25 index of passages; ties keep their order."""

    def __init__(self, passages: Sequence[str]) -> None:
        counted = [Counter(words(passage)) for passage in passages]
        lengths = [count.total() for count in counted]
        mean = max(1.0, sum(lengths) / max(1, len(lengths)))
        self.weights: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for index, count in enumerate(counted):
            damping = K1 * (1 - B + B * lengths[index] / mean)
            for word, times in count.items():
                self.weights[word].append((index, times * (K1 + 1) / (times + damping)))
        self.size = len(passages)

    def nearest(self, question: str) -> list[int]:
        """Return the indices of all passages, best first."""
        scores = [0.0] * self.size
        for word in words(question):
            holders = self.weights.get(word, [])
            rarity = math.log(1 + (self.size - len(holders) + 0.5) / (len(holders) + 0.5))
            for index, weight in holders:
                scores[index] += rarity * weight
        return sorted(range(self.size), key=scores.__getitem__, reverse=True)
