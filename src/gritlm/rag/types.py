"""Documents, the passages they are cut into, hits of a search, and traces of answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from types import MappingProxyType
from typing import Any, Literal, get_args

BlockKind = Literal["bidirectional", "causal"]
BLOCK_KINDS: tuple[BlockKind, ...] = get_args(BlockKind)
ReaderName = Literal["standard", "docling"]
READER_NAMES: tuple[ReaderName, ...] = get_args(ReaderName)  # of files
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


@dataclass
class Trace:
    """Counts and times of one answer, filled while it is generated.

    Attributes:
        fusion: use of several passages: ``sequence``, ``token`` or ``joint``.
        mode: mode of reuse.
        blocks: kind of the documents' key/value blocks.
        tokens_embedded: tokens of the question that were embedded for the search, in every mode.
        tokens_reranked: tokens read for reranking.
        tokens_prefilled: tokens of the prompt that were prefilled after the reused ones.
        tokens_reused: tokens of the prompt whose key/value state was reused.
        tokens_computed: tokens read to compute missing blocks.
        tokens_recomputed: reused or computed tokens that were recomputed.
        tokens_selecting: tokens read behind the passages that the answer does not come from.
        tokens_generated: tokens of the answer.
        parts: name, tokens and tier of each part of the prompt, in reading order.
        bytes_read: bytes of key/value state by tier: ``memory``, ``disk``, ``shared`` (storage of
            several machines), ``embedding`` (of the question), ``computed`` (missing before).
        milliseconds: time of each stage; ``first_token`` is the time from the text of the question
            to the first token of the answer.
        scores: passages that were read alone, the best first, each with ``passage``, ``cosine``,
            ``likelihood`` (mean log-probability of the question behind it) and ``score``.
        supported: whether the passages seem to hold the answer: False if the question is hardly
            likelier behind the best of them than without passage; None where this was not judged.
        dropped: ids of the passages that did not fit the prompt.
        reasons: reasons for the choices, as sentences.
        warnings: damage in the index, each with the remedy.
    """

    fusion: str = ""
    mode: str = ""
    blocks: str = ""
    tokens_embedded: int = 0
    tokens_reranked: int = 0
    tokens_prefilled: int = 0
    tokens_reused: int = 0
    tokens_computed: int = 0
    tokens_recomputed: int = 0
    tokens_selecting: int = 0
    tokens_generated: int = 0
    parts: list[dict[str, Any]] = field(default_factory=list)
    bytes_read: dict[str, int] = field(default_factory=dict)
    milliseconds: dict[str, float] = field(default_factory=dict)
    scores: list[dict[str, Any]] = field(default_factory=list)
    supported: bool | None = None
    dropped: tuple[str, ...] = ()
    reasons: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def tokens_read(self) -> int:
        """Number of tokens read between search and answer: prefilled, computed for missing blocks,
        recomputed, or read behind passages that were not chosen."""
        again = self.tokens_recomputed + self.tokens_selecting
        return self.tokens_prefilled + again + self.tokens_computed

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of a ``with`` block to a stage."""
        started = perf_counter()
        try:
            yield
        finally:
            self.add(name, perf_counter() - started)

    def add(self, name: str, seconds: float) -> None:
        self.milliseconds[name] = self.milliseconds.get(name, 0.0) + 1000 * seconds

    def part(
        self, name: str, *, tokens: int, tier: str, nbytes: int = 0, read: int | None = None
    ) -> None:
        """Record a part of the prompt.

        Args:
            name: id of a passage, ``question`` or ``instruction``.
            tokens: length of the part in the prompt.
            tier: origin of its state; ``read`` for a part that is prefilled.
            nbytes: bytes of its key/value state.
            read: tokens that were read to compute a missing block; None for ``tokens``.
        """
        self.parts.append({"part": name, "tokens": tokens, "tier": tier})
        if tier == "read":
            self.tokens_prefilled += tokens
            return
        if tier == "computed":
            self.tokens_computed += tokens if read is None else read
        else:
            self.tokens_reused += tokens
        self.bytes_read[tier] = self.bytes_read.get(tier, 0) + nbytes

    def add_blocks(self, other: Trace) -> None:
        """Add the parts, tokens and bytes of another trace."""
        self.parts += other.parts
        self.tokens_prefilled += other.tokens_prefilled
        self.tokens_reused += other.tokens_reused
        self._add_loaded(other)

    def add_discarded(self, other: Trace) -> None:
        """Add the tokens and bytes of a part that was read to be compared, and not chosen."""
        self.tokens_selecting += other.tokens_prefilled
        self._add_loaded(other)

    def _add_loaded(self, other: Trace) -> None:
        self.tokens_computed += other.tokens_computed
        for tier, nbytes in other.bytes_read.items():
            self.bytes_read[tier] = self.bytes_read.get(tier, 0) + nbytes

    def as_dict(self) -> Mapping[str, Any]:
        """Return the trace as plain values, for JSON."""
        return vars(self) | {"dropped": list(self.dropped)}
