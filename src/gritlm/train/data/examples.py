"""Training examples: pairs and scored pairs to embed, conversations and RAG rows to generate."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gritlm.lm.media.inputs import InputText, Part, Parts

Kind = Literal["embedding", "generative", "rag"]


@dataclass(frozen=True)
class InstructedText:
    """Text to embed, possibly with images and sounds, and its instruction in plain words.

    Attributes:
        text: the text; of an input with media, its texts without the media.
        instruction: the instruction; empty for none.
        parts: all parts of an input with images or sounds; empty for a text.
    """

    text: str
    instruction: str = ""
    parts: Parts = ()

    @property
    def identity(self) -> str:
        """The text by which equal inputs are found: with the path or a hash of each medium."""
        return content_identity(self.parts) if self.parts else self.text


def content_identity(content: str | Parts) -> str:
    """Return a text that is equal for equal contents: a text, or parts."""
    return content if isinstance(content, str) else "\x1f".join(_identities(content))


def _identities(parts: Parts) -> Iterator[str]:
    for part in parts:
        yield part.text if isinstance(part, InputText) else f"[{_digest(part)}]"


def _digest(part: Part) -> str:
    source: Any = getattr(part, "source", None)
    if isinstance(source, bytes):
        content = source
    elif hasattr(source, "tobytes"):
        content = repr(getattr(source, "shape", getattr(source, "size", ""))).encode()
        content += source.tobytes()
    else:
        content = str(source if isinstance(source, Path) else getattr(source, "url", "")).encode()
    return hashlib.blake2b(content, digest_size=16).hexdigest()


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
        messages: the turns; the content of a turn with images or sounds is a tuple of parts.
        context: indices of assistant turns that are not in the loss: tool calls.
    """

    messages: tuple[dict[str, Any], ...]
    context: tuple[int, ...] = ()

    @property
    def has_media(self) -> bool:
        """Whether a turn has an image or a sound."""
        return any(not isinstance(turn["content"], str) for turn in self.messages)


@dataclass(frozen=True)
class RagExample:
    """Question with documents and answer; the first document has the answer."""

    question: str
    documents: tuple[str, ...]
    answer: str


Row = EmbeddingExample | ScoredExample | ChatExample | RagExample
