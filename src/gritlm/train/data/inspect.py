"""Readable view of a prompt: spans of header, pooled and trained tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from gritlm.lm.tokens import Prompt, SegmentTokenizer

Mark = Literal["header", "pooled", "trained", "other"]


@dataclass(frozen=True)
class LabelledSpan:
    """Text of consecutive tokens with the same use.

    Attributes:
        text: the decoded tokens.
        mark: use of the tokens: ``header``, ``pooled``, ``trained`` or ``other``.
    """

    text: str
    mark: Mark


@dataclass(frozen=True)
class ExampleView:
    """Labelled spans of a prompt.

    Attributes:
        name: ``query``, ``positive``, ``negative``, ``conversation``, ``sample`` or similar.
        pieces: the spans, from left to right.
    """

    name: str
    pieces: tuple[LabelledSpan, ...]


def view(name: str, prompt: Prompt, tokens: SegmentTokenizer) -> ExampleView:
    """Split a prompt into labelled spans; joined, they are the text of all tokens.

    Args:
        name: name of the prompt.
        prompt: the prompt, with its pooled or trained spans.
        tokens: tokenizer of the prompt.
    """
    spans = []
    before = ""
    ids = prompt.readable_ids
    for _, end, mark in _spans(prompt):
        # Decode from the start: a span decoded alone can lose its leading space.
        prefix = str(tokens.tokenizer.decode(ids[:end], clean_up_tokenization_spaces=False))
        spans.append(LabelledSpan(prefix[len(before) :], mark))
        before = prefix
    return ExampleView(name, tuple(spans))


def _spans(prompt: Prompt) -> Iterator[tuple[int, int, Mark]]:
    """Yield (start, end, mark) of non-empty spans that cover all tokens, from left to right."""
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
