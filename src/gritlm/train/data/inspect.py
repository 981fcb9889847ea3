"""Rows as a person can read them: what is header, what is pooled, what is trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from gritlm.lm.tokens import Prompt, SegmentTokenizer

Mark = Literal["header", "pooled", "trained", "other"]


@dataclass(frozen=True)
class LabelledSpan:
    """Text of neighbouring tokens that are used in the same way."""

    text: str
    mark: Mark


@dataclass(frozen=True)
class ExampleView:
    """One prompt of a row: ``query``, ``positive``, ``negative`` or ``conversation``."""

    name: str
    pieces: tuple[LabelledSpan, ...]


def view(name: str, prompt: Prompt, tokens: SegmentTokenizer) -> ExampleView:
    """A prompt in pieces; joined, they are the text of all its tokens, special ones too."""
    made = []
    before = ""
    for _, end, mark in _spans(prompt):
        # Decoded from the start: by itself, the first piece of a span can lose its space.
        upto = str(tokens.tokenizer.decode(prompt.ids[:end], clean_up_tokenization_spaces=False))
        made.append(LabelledSpan(upto[len(before) :], mark))
        before = upto
    return ExampleView(name, tuple(made))


def _spans(prompt: Prompt) -> Iterator[tuple[int, int, Mark]]:
    """(start, end, mark) of all tokens, from left to right; none is empty."""
    marked: list[tuple[int, int, Mark]] = [(start, end, "trained") for start, end in prompt.trained]
    if prompt.pooled != (0, 0):
        marked = [(0, prompt.pooled[0], "header"), (*prompt.pooled, "pooled")]
    done = 0
    for start, end, mark in [*marked, (len(prompt.ids), len(prompt.ids), "other")]:
        if start > done:
            yield done, start, "other"
        if end > start:
            yield start, end, mark
        done = end
