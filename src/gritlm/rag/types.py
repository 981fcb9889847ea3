"""Documents, the passages they are cut into, and hits of a search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, get_args

BlockKind = Literal["bidirectional", "causal"]
BLOCK_KINDS: tuple[BlockKind, ...] = get_args(BlockKind)
Scalar = str | int | float | bool | None
Value = Scalar | list[Scalar]
ID_NAMES = ("id", "_id")  # fields of rows
TEXT_NAMES = ("text", "page_content", "contents", "content")  # gritlm, LangChain, Pyserini, others
LEFT_OUT: Mapping[str, Value] = MappingProxyType({})  # placeholder of metadata too large to be read


@dataclass(frozen=True)
class Document:
    """A text with an id, as it is added.

    Attributes:
        id: unique id; adding another text under the same id replaces the document.
        text: plain text or Markdown.
        title: title; it is embedded in front of each passage.
        metadata: names and values to filter by.
        markdown: whether headings of the text are borders of passages.
    """

    id: str
    text: str
    title: str = ""
    metadata: Mapping[str, Value] = field(default_factory=dict)
    markdown: bool = False


@dataclass(frozen=True)
class Passage:
    """A span of a document's text, short enough to be embedded in one pass.

    Attributes:
        id: hash of the document's id and the embedded text: the same content has the same id.
        document_id: id of the document.
        title: title of the document.
        text: text of the passage.
        number: index among the passages of the document, from 0.
        start: offset of its first character in the document's text.
        end: offset behind its last character.
        metadata: metadata of the document.
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
        """The embedded text: title and text, joined as ``encode_corpus`` does."""
        return f"{self.title} {self.text}".strip()


@dataclass(frozen=True)
class Hit:
    """A passage found by a search.

    Attributes:
        passage: the passage.
        score: cosine of question and passage, also where the words were found.
        rank: rank in the result, from 1.
        also_in: ids of other documents that hold a passage of the same text.
    """

    passage: Passage
    score: float
    rank: int
    also_in: tuple[str, ...] = ()
