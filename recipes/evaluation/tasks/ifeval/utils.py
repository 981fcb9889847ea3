"""lm-eval's checks of IFEval, on a machine without NLTK's data too.

Two of the twenty-five kinds of instruction use the data ``punkt_tab``: counting sentences, and
words in capitals. Where it is not there (``python -m nltk.downloader punkt_tab`` fetches it),
sentences are counted with lm-eval's own rules for them, and words are split without splitting
sentences first.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from importlib import import_module
from types import SimpleNamespace
from typing import Any

_RANK = "LOCAL_RANK"


def process_results(row: dict[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """The four figures of one answer."""
    return _checks().process_results(row, results)


def share_of_instructions(followed: Sequence[Sequence[bool]]) -> float:
    """Share of all instructions of all prompts."""
    flat = [one for prompt in followed for one in prompt]
    return sum(flat) / len(flat)


@cache
def _checks() -> Any:
    with _nothing_fetched():
        checks: Any = import_module("lm_eval.tasks.ifeval.utils")
    nltk: Any = import_module("nltk")
    if not _has_sentences(nltk):
        tools: Any = import_module("lm_eval.tasks.ifeval.instructions_util")
        tools.count_sentences = lambda text: len(tools.split_into_sentences(text))
        words = partial(nltk.word_tokenize, preserve_line=True)
        tools.nltk = SimpleNamespace(tokenize=nltk.tokenize, word_tokenize=words)
    return checks


def _has_sentences(nltk: Any) -> bool:
    try:
        nltk.data.find("tokenizers/punkt_tab")
    except LookupError:
        return False
    return True


@contextmanager
def _nothing_fetched() -> Iterator[None]:
    """lm-eval fetches the data when it is imported, in the process of rank 0 only."""
    before = os.environ.get(_RANK)
    os.environ[_RANK] = "1"
    try:
        yield
    finally:
        del os.environ[_RANK]
        if before is not None:
            os.environ[_RANK] = before
