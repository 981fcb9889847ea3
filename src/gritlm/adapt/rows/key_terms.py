"""Key terms of passages: words that are frequent in a passage and rare in the collection."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

TERMS = 4  # of a query
_WORD = re.compile(r"[^\W\d_](?:[\w'-]*\w)?")
_SHORTEST = 3  # letters of a term
_COMMON = 0.3  # share of the passages above which a word says nothing


class KeyTerms:
    """Key terms of the passages of a collection, by the number of passages that hold each word.

    Args:
        texts: all passages of the collection.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._passages = len(texts)
        self._held: Counter[str] = Counter()
        for text in texts:
            self._held.update(set(_words(text)))

    def of(self, text: str, *, most: int = TERMS) -> list[str]:
        """Return the key terms of a passage, in the order of the text.

        Terms of a single passage are the rarest, but often misspelt, so they count no more than
        those of two.

        Args:
            text: the passage.
            most: most terms.
        """
        counts = Counter(_words(text))
        usual = max(1.0, _COMMON * self._passages)
        weights = {
            word: count * math.log(1 + self._passages / max(2, self._held[word]))
            for word, count in counts.items()
            if self._held[word] <= usual
        }
        best = sorted(weights, key=lambda word: (-weights[word], word))[:most]
        return [word for word in counts if word in best]


def _words(text: str) -> list[str]:
    return [word for word in _WORD.findall(text.casefold()) if len(word) >= _SHORTEST]
