"""Text utilities: normalization, truncation, hashes, word overlap."""

from __future__ import annotations

import hashlib
import heapq
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache

_BRACKETS = {"-lrb-": "(", "-rrb-": ")", "-lsb-": "[", "-rsb-": "]", "``": '"', "''": '"'}


def one_line(text: str) -> str:
    """Return the text with single spaces for all white space, zero-width included."""
    return " ".join(text.replace("\u200b", " ").split())


def first_words(text: str, count: int) -> str:
    return " ".join(text.split()[:count])


def around(text: str, answer: str, count: int) -> str:
    """Return ``count`` words around the answer, or the first ones if it does not occur."""
    words = text.split()
    at = text.find(answer)
    start = len(text[: max(0, at)].split()) - count // 4
    start = max(0, min(start, len(words) - count))
    return " ".join(words[start : start + count])


def untokenised(text: str) -> str:
    """Return ordinary text for text tokenised by white space."""
    text = one_line(" ".join(_BRACKETS.get(word, word) for word in text.split()))
    text = re.sub(r"(\d) -- (\d)", r"\1-\2", text).replace(" -- ", " - ")
    text = re.sub(r" ([.,;:?!%)\]]|n't\b|'(?:s|m|re|ve|ll|d)\b)", r"\1", text)
    text = re.sub(r"([(\[$#]) ", r"\1", text)
    return re.sub(r'" ([^"]*?) ?"', r'"\1"', text)


def number(text: str) -> int:
    """Return a hash of the text that is the same on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "big")


def letters(text: str) -> str:
    """Return the text without case, white space and punctuation."""
    return re.sub(r"-[lr][rs]b-|[\W_]+", "", text.casefold())


@cache
def fingerprint(text: str) -> str:
    """Return the first 60 letters, equal for copies with other endings or markup."""
    return letters(text[:400])[:60]


class Overlap:
    """Index of texts by word overlap; rare words and short texts have more weight."""

    def __init__(self, texts: Sequence[str]) -> None:
        sets = [_words(text) for text in texts]
        self.shortness = [1 / math.sqrt(max(1, len(words))) for words in sets]
        self.holders: dict[str, list[int]] = defaultdict(list)
        for index, words in enumerate(sets):
            for word in sorted(words):
                self.holders[word].append(index)

    def nearest(self, query: str, *, count: int, without: Iterable[int] = ()) -> list[int]:
        """Return the indices of the best texts, best first, without texts that share no word.

        Words that are in a tenth of all texts say nothing.
        """
        score: defaultdict[int, float] = defaultdict(float)
        size = len(self.shortness)
        for word in sorted(_words(query)):
            holders = self.holders.get(word, [])
            if 0 < len(holders) <= max(1, size // 10):
                weight = math.log(size / len(holders))
                for index in holders:
                    score[index] += weight * self.shortness[index]
        for index in without:
            score.pop(index, None)
        return heapq.nsmallest(count, score, key=lambda index: (-score[index], index))


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))
