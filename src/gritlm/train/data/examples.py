"""Training examples: pairs and scored pairs to embed, conversations and RAG rows to generate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["embedding", "generative", "rag"]


@dataclass(frozen=True)
class InstructedText:
    """Text to embed, with its instruction in plain words."""

    text: str
    instruction: str = ""


@dataclass(frozen=True)
class EmbeddingExample:
    """Query with at least one positive passage and hard negatives."""

    query: InstructedText
    positives: tuple[InstructedText, ...]
    negatives: tuple[InstructedText, ...] = ()


@dataclass(frozen=True)
class ScoredExample:
    """Pair of texts with a similarity score on any scale; higher is more similar."""

    first: InstructedText
    second: InstructedText
    score: float


@dataclass(frozen=True)
class ChatExample:
    """Conversation of ``{"role": ..., "content": ...}``; the assistant turns are in the loss.

    Attributes:
        messages: the turns.
        context: indices of assistant turns that are not in the loss: tool calls.
    """

    messages: tuple[dict[str, str], ...]
    context: tuple[int, ...] = ()


@dataclass(frozen=True)
class RagExample:
    """Question with documents and answer; the first document has the answer."""

    question: str
    documents: tuple[str, ...]
    answer: str


Row = EmbeddingExample | ScoredExample | ChatExample | RagExample
