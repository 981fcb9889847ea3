"""What is stored and found: documents, and the passages that they are cut into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

Scalar = str | int | float | bool | None
Value = Scalar | list[Scalar]
ID_NAMES = ("id", "_id")  # of rows
TEXT_NAMES = ("text", "page_content", "contents", "content")  # ours, LangChain, Pyserini, others
LEFT_OUT: Mapping[str, Value] = MappingProxyType({})  # for metadata that was too large to read


@dataclass(frozen=True)
class Document:
    """A text as a user has it.

    Attributes:
        id: what it is known by: adding another text under the same id replaces it.
        text: plain text or Markdown.
        metadata: names and values to filter by.
        markdown: headings of the text are borders.
    """

    id: str
    text: str
    title: str = ""
    metadata: Mapping[str, Value] = field(default_factory=dict)
    markdown: bool = False


@dataclass(frozen=True)
class Passage:
    """A run of a document's text, short enough to be read at once.

    Attributes:
        id: from its document's id and what is embedded, so the same content has the same id.
        number: its place among those of the document, from 0.
        start: first character in the document's text.
        end: the character behind its last one.
    """

    id: str
    document_id: str
    title: str
    text: str
    number: int
    start: int
    end: int
    metadata: Mapping[str, Value] = field(default_factory=dict)

    @property
    def embedded(self) -> str:
        """Title and text as one, the way ``encode_corpus`` joins them."""
        return f"{self.title} {self.text}".strip()


@dataclass(frozen=True)
class Hit:
    """A passage that was found.

    Attributes:
        score: cosine of question and passage, also where its words were what was found.
        rank: from 1.
        also_in: ids of other documents that hold a passage of the same text.
    """

    passage: Passage
    score: float
    rank: int
    also_in: tuple[str, ...] = ()
