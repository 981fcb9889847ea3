"""Answers in words against the right ones: match, exact match and F1, each between 0 and 1.

Texts are normalised as the evaluation of SQuAD does it (Rajpurkar et al. 2016); ``match`` is the
figure that the GritLM paper gives for Natural Questions. A model may write more than it was asked
for: match allows it, the other two do not.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalise(text: str) -> str:
    """Lower case, without ASCII punctuation and English articles, single spaces.

    >>> normalise("  The Beatles' 1st  album.")
    'beatles 1st album'
    """
    bare = text.lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def match(output: str, answers: Sequence[str]) -> float:
    """1 when some answer stands in the output as a run of whole words, else 0.

    An answer of which normalising leaves nothing stands nowhere.
    """
    words = f" {normalise(output)} "
    return float(any(f" {gold} " in words for gold in map(normalise, answers) if gold))


def exact(output: str, answers: Sequence[str]) -> float:
    """1 when the output is one of the answers, else 0."""
    return float(normalise(output) in map(normalise, answers))


def f1(output: str, answers: Sequence[str]) -> float:
    """Harmonic mean of the shares of words in common, with the answer for which it is highest."""
    return max((_f1(normalise(output).split(), normalise(a).split()) for a in answers), default=0.0)


def _f1(given: list[str], gold: list[str]) -> float:
    if not given or not gold:
        return float(given == gold)
    common = sum((Counter(given) & Counter(gold)).values())
    return 2 * common / (len(given) + len(gold))
