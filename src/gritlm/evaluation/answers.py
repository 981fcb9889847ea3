"""Scores of a generated answer against the reference answers: match, exact match and F1.

Each score lies between 0 and 1. Texts are normalised as in the evaluation of SQuAD (Rajpurkar et
al. 2016). ``match`` is the metric that the GritLM paper reports for Natural Questions: it accepts
an output with more text around the answer, exact match and F1 do not.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalise(text: str) -> str:
    """Return a text in lower case, without ASCII punctuation and English articles.

    Words are separated by single spaces.

    >>> normalise("  The Beatles' 1st  album.")
    'beatles 1st album'
    """
    bare = text.lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def match(output: str, answers: Sequence[str]) -> float:
    """Return 1 when the output contains one of the answers as whole words, else 0.

    An answer that is empty after normalisation never matches.
    """
    words = f" {normalise(output)} "
    return float(any(f" {gold} " in words for gold in map(normalise, answers) if gold))


def exact(output: str, answers: Sequence[str]) -> float:
    """Return 1 when the output equals one of the answers after normalisation, else 0."""
    return float(normalise(output) in map(normalise, answers))


def f1(output: str, answers: Sequence[str]) -> float:
    """Return the F1 score of the words of the output, for the answer where it is highest."""
    return max((_f1(normalise(output).split(), normalise(a).split()) for a in answers), default=0.0)


def _f1(words: list[str], gold: list[str]) -> float:
    if not words or not gold:
        return float(words == gold)
    common = sum((Counter(words) & Counter(gold)).values())
    return 2 * common / (len(words) + len(gold))
