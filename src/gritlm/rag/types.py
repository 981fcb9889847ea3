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
ReaderName = Literal["standard", "docling", "pages", "pages-and-text"]
READER_NAMES: tuple[ReaderName, ...] = get_args(ReaderName)  # of files
MediaKind = Literal["image", "sound"]
Scalar = str | int | float | bool | None
Value = Scalar | list[Scalar]
ID_NAMES = ("id", "_id")  # fields of rows
TEXT_NAMES = ("text", "page_content", "contents", "content")  # gritlm, LangChain, Pyserini, others
LEFT_OUT: Mapping[str, Value] = MappingProxyType({})  # placeholder of metadata too large to be read


RESERVED = "gritlm."  # beginning of the names of metadata that gritlm adds itself
PAGE = f"{RESERVED}page"


def given_metadata(metadata: Mapping[str, Value]) -> Mapping[str, Value]:
    """Return the metadata that a document was added with: without the names that gritlm adds."""
    if not any(name.startswith(RESERVED) for name in metadata):
        return metadata
    return {name: value for name, value in metadata.items() if not name.startswith(RESERVED)}


def with_page(metadata: Mapping[str, Value], page: int | None) -> Mapping[str, Value]:
    """Return the metadata of a passage of text with its page; unchanged where none is known."""
    return metadata if page is None else {**metadata, PAGE: page}


@dataclass(frozen=True)
class MediaPlace:
    """Place of a passage that is an image or a sound, in its document.

    Attributes:
        kind: ``image`` or ``sound``.
        page: number of the page, from 1; None for an image that is no page, and for sound.
        start: begin of a window of sound, in seconds; None for images.
        end: end of the window, in seconds.
    """

    kind: MediaKind
    page: int | None = None
    start: float | None = None
    end: float | None = None

    @property
    def label(self) -> str:
        """The page or the time, for people; empty for an image that is no page."""
        if self.page is not None:
            return f"page {self.page}"
        if self.start is None or self.end is None:
            return ""
        return f"{clock(self.start)}-{clock(self.end)}"

    def metadata(self) -> dict[str, Value]:
        """Return the place as metadata of its passage."""
        own: dict[str, Value] = {
            "media": self.kind,
            "page": self.page,
            "start": self.start,
            "end": self.end,
        }
        return {f"{RESERVED}{name}": value for name, value in own.items() if value is not None}

    @staticmethod
    def of(metadata: Mapping[str, Value]) -> MediaPlace | None:
        """Return the place in the metadata of a passage; None for a passage of text."""
        own = {name: metadata.get(f"{RESERVED}{name}") for name in ("media", *PLACES)}
        kind = own.pop("media")
        return None if kind is None else MediaPlace(kind, **own)  # type: ignore[arg-type]


PLACES = ("page", "start", "end")


def clock(seconds: float) -> str:
    """Return a time as hours, minutes and seconds: ``1:02:05``, ``0:30``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@dataclass(frozen=True)
class MediaPiece:
    """An image or a sound of a document, which is embedded as one passage.

    Attributes:
        data: bytes of a PNG image or a WAV file.
        place: its place in the document.
    """

    data: bytes = field(repr=False)
    place: MediaPlace


@dataclass(frozen=True)
class Document:
    """A text with an id, as it is added, or a file of images and sound.

    Attributes:
        id: unique id; adding another text under the same id replaces the document.
        text: plain text or Markdown.
        title: title; it is embedded in front of each passage.
        metadata: names and values to filter by.
        markdown: whether headings of the text are borders of passages.
        media: pages, images and sounds, each of which becomes a passage before those of the text.
        pages: offset in the text at which each page begins; empty for a text without pages.
    """

    id: str
    text: str
    title: str = ""
    metadata: Mapping[str, Value] = field(default_factory=dict)
    markdown: bool = False
    media: tuple[MediaPiece, ...] = ()
    pages: tuple[int, ...] = ()


@dataclass(frozen=True)
class Passage:
    """A span of a document's text, short enough to be embedded in one pass; or an image or a sound.

    The text of an image or a sound is the id of its document, with the page or the time.

    Attributes:
        id: hash of the document's id and the embedded content: the same content has the same id.
        document_id: id of the document.
        title: title of the document.
        text: text of the passage.
        number: index among the passages of the document, from 0.
        start: offset of its first character in the document's text.
        end: offset behind its last character.
        metadata: metadata of the document; that of an image or a sound has its place too.
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

    @property
    def media(self) -> MediaPlace | None:
        """Place of an image or a sound; None for text, and where metadata was not read."""
        return MediaPlace.of(self.metadata)

    @property
    def shown_metadata(self) -> Mapping[str, Value]:
        """Metadata of its document; that of an image or a sound has its place too."""
        return given_metadata(self.metadata) if self.media is None else self.metadata

    @property
    def page(self) -> int | None:
        """Number of the page on which it begins, from 1; None where no page is known."""
        page = self.metadata.get(PAGE)
        return page if isinstance(page, int) else None


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
        """Add seconds to the time of a stage."""
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
