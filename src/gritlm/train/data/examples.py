"""The rows a model is trained on, as values: two to embed, two to write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["embedding", "generative", "rag"]


@dataclass(frozen=True)
class InstructedText:
    """A text to embed, and what the model is told about it in plain words."""

    text: str
    instruction: str = ""


@dataclass(frozen=True)
class EmbeddingExample:
    """A query, the passages that answer it (at least one), and hard negatives."""

    query: InstructedText
    positives: tuple[InstructedText, ...]
    negatives: tuple[InstructedText, ...] = ()


@dataclass(frozen=True)
class ScoredExample:
    """Two texts and how near they are to each other, on any scale: the more, the nearer."""

    first: InstructedText
    second: InstructedText
    score: float


@dataclass(frozen=True)
class ChatExample:
    """A conversation of ``{"role": ..., "content": ...}``; the assistant's turns are trained.

    Attributes:
        context: numbers of the assistant's turns that are not: its tool calls.
    """

    messages: tuple[dict[str, str], ...]
    context: tuple[int, ...] = ()


@dataclass(frozen=True)
class RagExample:
    """A question over documents, the one that answers it first, and the answer."""

    question: str
    documents: tuple[str, ...]
    answer: str


Row = EmbeddingExample | ScoredExample | ChatExample | RagExample
