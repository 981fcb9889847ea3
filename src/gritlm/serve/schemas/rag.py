"""``/v1/rag``: documents, passages and answers from them. Ours; streams look like chats."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field

from gritlm.errors import InputError
from gritlm.rag import filters
from gritlm.rag.document_ids import check_document_id
from gritlm.rag.filters import MOST_TERMS
from gritlm.rag.passages import ID_NAMES, TEXT_NAMES
from gritlm.serve.schemas.chat import ChunkChoice
from gritlm.serve.schemas.common import (
    Body,
    FinishReason,
    Reply,
    Seed,
    Stop,
    StreamOptions,
    Temperature,
    Tokens,
    TopP,
    Usage,
    bounded,
    refused,
)

Scalar = str | int | float | bool | None


def _few_terms(given: Any) -> Any:
    """Refuse a filter of very many values before each of them is looked at."""
    if isinstance(given, dict):
        try:
            filters.require_few_terms(given)
        except InputError as error:
            raise refused("too_many", str(error)) from None
    return given


Filter = Annotated[
    dict[str, Scalar | Annotated[list[Scalar], Field(fail_fast=True, max_length=MOST_TERMS)]],
    BeforeValidator(_few_terms),
    Field(description="Names of metadata with a value, or with several of which one "
          f"fits; at most {MOST_TERMS} values in all. Without names: no filter."),
]  # fmt: skip
Metadata = Annotated[
    dict[str, Any],
    BeforeValidator(bounded),
    Field(
        description="Names and values to filter by, at most 16 KB as JSON. An object in it becomes "
        "names with dots."
    ),
]
ShownMetadata = Annotated[
    dict[str, Any] | None,
    Field(description="null: a document of an older version has more than 32 KiB of it."),
]
TopPassages = Annotated[int, Field(ge=1, le=100)]


def _unwrapped(data: str) -> str:
    """Return base64 in one piece: many tools break it into lines."""
    return "".join(data.split())


Base64 = Annotated[str, AfterValidator(_unwrapped)]


def _document_id(value: str) -> str:
    try:
        return check_document_id(value)
    except InputError as error:
        raise refused("document_id", str(error)) from None


def _as_text(value: Any) -> Any:
    """Return a whole number as the id that it is in a file of rows, too."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1:
        return str(int(value))
    return value


DocumentId = Annotated[
    str, AfterValidator(_document_id), Field(description="At most 512 bytes, on one line.")
]


class DocumentBody(Body):
    """A text. Its id is made from its content when it has none.

    As in a file of rows, the text may be named ``page_content``, ``contents`` or ``content``, the
    id ``_id``.
    """

    text: str = Field(min_length=1, validation_alias=AliasChoices(*TEXT_NAMES))
    id: Annotated[DocumentId | None, BeforeValidator(_as_text)] = Field(
        None, validation_alias=AliasChoices(*ID_NAMES)
    )
    title: str | None = None
    markdown: bool = Field(False, description="Whether headings are borders of passages.")
    metadata: Metadata | None = None


class FileBody(Body):
    """A file, read by the ending of its name: .txt .md .html .pdf .jsonl .json .csv .tsv. Its name
    is its id."""

    name: DocumentId
    data: Base64 = Field(description="Its bytes in base64, which may have line breaks.")
    text_field: str | None = Field(
        None, max_length=512, description="Name of the text in a file of rows."
    )
    metadata: Metadata | None = None


class AddBody(Body):
    documents: list[DocumentBody] = Field(default_factory=list, max_length=2048, fail_fast=True)
    files: list[FileBody] = Field(default_factory=list, max_length=256, fail_fast=True)


class SkippedReply(Reply):
    name: str
    reason: str


class AddReply(Reply):
    object: Literal["rag.documents.added"]
    ids: list[str]
    documents: int = Field(description="That are new or replaced.")
    passages: int
    replaced: int
    unchanged: int
    skipped: list[SkippedReply] = Field(description="The first 100 of them.")
    skipped_count: int = Field(description="All that were skipped.")
    seconds: float


class DocumentReply(Reply):
    id: str
    object: Literal["rag.document"]
    title: str
    passages: int
    metadata: ShownMetadata


class DocumentsReply(Reply):
    """``after=last_id`` asks for the next ones while ``has_more``; a page ends at ``limit``
    documents or some 4 MiB."""

    object: Literal["list"]
    data: list[DocumentReply]
    total: int
    has_more: bool
    last_id: str | None = Field(
        description="Id of the last document; a shorter stand-in for one of more than 512 "
        "characters, as stores of earlier versions hold."
    )


class DeletedReply(Reply):
    id: str
    object: Literal["rag.document.deleted"]
    deleted: Literal[True]
    passages: int


def _words(question: str) -> str:
    if not question.strip():
        raise refused("empty", "the question is empty; expected some text")
    return question


class Finding(Body):
    """How passages are found."""

    question: Annotated[str, AfterValidator(_words), Field(min_length=1)]
    top_k: TopPassages = 3
    filter: Filter | None = None
    hybrid: bool = Field(False, description="Search by words, too.")
    rerank: int = Field(
        0, ge=0, le=100, description="Let the model order so many candidates itself; 0: none."
    )


class SearchBody(Finding):
    model: str | None = None


class PassageReply(Reply):
    id: str
    document_id: str
    title: str
    text: str
    start: int = Field(description="First character of it in its document's text.")
    end: int
    score: float = Field(description="Cosine of question and passage.")
    also_in: list[str] = Field(description="Ids of other documents with a passage of this text.")


class HitReply(PassageReply):
    rank: int
    metadata: ShownMetadata


class SearchReply(Reply):
    object: Literal["list"]
    data: list[HitReply]
    model: str


class AnswerBody(Finding):
    model: str | None = None
    mode: Literal["none", "query", "doc", "doc-query", "query-doc", "auto"] = Field(
        "doc",
        description="What is reused of what was read before; none: everything is read now; auto: "
        "what is fastest here.",
    )
    blocks: Literal["bidirectional", "causal"] = Field(
        "bidirectional", description="How documents were read when they were stored."
    )
    max_tokens: Tokens = 128
    temperature: Temperature = 0.0
    top_p: TopP = 1.0
    seed: Seed | None = None
    stop: Stop = None
    stream: bool = False
    stream_options: StreamOptions | None = None


class TraceReply(Reply):
    """What the answer took: tokens, bytes and milliseconds of every part."""

    mode: str
    blocks: str
    tokens_embedded: int
    tokens_reranked: int
    tokens_prefilled: int
    tokens_reused: int
    tokens_computed: int
    tokens_recomputed: int
    tokens_selecting: int
    tokens_generated: int
    parts: list[dict[str, Any]]
    bytes_read: dict[str, int]
    milliseconds: dict[str, float]
    dropped: list[str]
    reasons: list[str]
    warnings: list[str] = Field(description="Damaged passages that were left out.")


class AnswerReply(Reply):
    id: str
    object: Literal["rag.answer"]
    created: int
    model: str
    answer: str
    finish_reason: FinishReason
    sources: list[PassageReply]
    trace: TraceReply
    usage: Usage


class AnswerChunk(Reply):
    """An event of a stream: the first has ``sources``, the last ``trace`` and ``usage``."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    system_fingerprint: str
    sources: list[PassageReply] | None = None
    trace: TraceReply | None = None
    usage: Usage | None = None
