"""Models of ``/v1/rag``: documents, passages and answers. Streams have the form of chats."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field

from gritlm.errors import InputError
from gritlm.rag.ingest.document_ids import check_document_id
from gritlm.rag.types import ID_NAMES, TEXT_NAMES
from gritlm.serve.schemas.base import ExactRequestModel, ResponseModel, bounded, refused
from gritlm.serve.schemas.chat_completions import ChunkChoice
from gritlm.serve.schemas.common import (
    FinishReason,
    StreamOptions,
    Usage,
)
from gritlm.serve.schemas.passages import PassageObject, TraceObject
from gritlm.serve.schemas.rag_options import AnswerFields, SearchOptions, StoreName
from gritlm.serve.schemas.sampling import SamplingFields, Temperature, Tokens, TopP

Metadata = Annotated[
    dict[str, Any],
    BeforeValidator(bounded),
    Field(
        description="Names and values to filter by, at most 16 KB as JSON. Nested objects become "
        "names with dots."
    ),
]
ShownMetadata = Annotated[
    dict[str, Any] | None,
    Field(description="null if a document of an older version has more than 32 KiB of metadata."),
]


def _unwrapped(data: str) -> str:
    """Return base64 without line breaks, which many tools insert."""
    return "".join(data.split())


Base64 = Annotated[str, AfterValidator(_unwrapped)]


def _document_id(value: str) -> str:
    try:
        return check_document_id(value)
    except InputError as error:
        raise refused("document_id", str(error)) from None


def _as_text(value: Any) -> Any:
    """Return a whole number as text, as for an id in a file of rows."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1:
        return str(int(value))
    return value


DocumentId = Annotated[
    str, AfterValidator(_document_id), Field(description="At most 512 bytes, without line breaks.")
]


class DocumentObject(ExactRequestModel):
    """A document as text. Without an id, it gets one derived from its content.

    As in a file of rows, the text may be named ``page_content``, ``contents`` or ``content``, and
    the id ``_id``.
    """

    text: str = Field(min_length=1, validation_alias=AliasChoices(*TEXT_NAMES))
    id: Annotated[DocumentId | None, BeforeValidator(_as_text)] = Field(
        None, validation_alias=AliasChoices(*ID_NAMES)
    )
    title: str | None = None
    markdown: bool = Field(
        False, description="Whether the text is Markdown, split into passages at its headings."
    )
    metadata: Metadata | None = None


class FileObject(ExactRequestModel):
    """A file: .txt .md .html .pdf .docx .pptx .xlsx .epub .jsonl .json .csv or .tsv, by the ending
    of its name; an image or a sound for a model that reads them. The name is its id."""

    name: DocumentId
    data: Base64 = Field(description="Bytes of the file in base64, which may have line breaks.")
    text_field: str | None = Field(
        None, max_length=512, description="Name of the field with the text, in a file of rows."
    )
    metadata: Metadata | None = None


class AddDocumentsRequest(ExactRequestModel):
    store: StoreName | None = None
    documents: list[DocumentObject] = Field(default_factory=list, max_length=2048, fail_fast=True)
    files: list[FileObject] = Field(default_factory=list, max_length=256, fail_fast=True)
    stream: bool = Field(
        False,
        description="Send events of the progress while passages are embedded; the last event is "
        "the response.",
    )


class SkippedItem(ResponseModel):
    name: str
    reason: str


class AddDocumentsResponse(ResponseModel):
    object: Literal["rag.documents.added"]
    ids: list[str]
    documents: int = Field(description="Number of new and replaced documents.")
    passages: int
    replaced: int
    unchanged: int
    skipped: list[SkippedItem] = Field(description="The first 100 documents that were skipped.")
    skipped_count: int = Field(description="Number of all documents that were skipped.")
    seconds: float


class AddProgress(ResponseModel):
    """An event of a stream of progress. The last event of the stream is the response."""

    object: Literal["rag.documents.progress"]
    passages: int = Field(description="Number of passages embedded so far.")
    share: float = Field(description="Part of the documents' text that is embedded, 0 to 1.")


class StoreObject(ResponseModel):
    id: str = Field(description="Name of the store in requests.")
    object: Literal["rag.store"]
    documents: int
    read_only: bool
    model: str = Field(description="Name of the model that made the store and answers from it.")
    disk_bytes: int = Field(description="Size of the stored key/value state on disk.")
    memory_bytes: int = Field(description="Size of the key/value state in the memory cache.")


class StoreListResponse(ResponseModel):
    object: Literal["list"]
    data: list[StoreObject]


class StoredDocument(ResponseModel):
    id: str
    object: Literal["rag.document"]
    title: str
    passages: int
    metadata: ShownMetadata


class DocumentListResponse(ResponseModel):
    """A page of documents: at most ``limit`` documents, or some 4 MiB.

    While ``has_more`` is true, ``after=last_id`` requests the next page.
    """

    object: Literal["list"]
    data: list[StoredDocument]
    total: int
    has_more: bool
    last_id: str | None = Field(
        description="Id of the last document; a shorter stand-in for one of more than 512 "
        "characters, as stores of earlier versions hold."
    )


class DeleteDocumentResponse(ResponseModel):
    id: str
    object: Literal["rag.document.deleted"]
    deleted: Literal[True]
    passages: int


def _require_words(question: str) -> str:
    if not question.strip():
        raise refused("empty", "the question is empty; expected some text")
    return question


class QuestionFields(ExactRequestModel):
    """The question of a search or an answer."""

    question: Annotated[str, AfterValidator(_require_words), Field(min_length=1)]


class SearchRequest(SearchOptions, QuestionFields):
    model: str | None = None


class SearchHit(PassageObject):
    rank: int
    metadata: ShownMetadata


class SearchResponse(ResponseModel):
    object: Literal["list"]
    data: list[SearchHit]
    model: str


class AnswerRequest(AnswerFields, QuestionFields, SamplingFields):
    model: str | None = None
    max_tokens: Tokens = 128
    temperature: Temperature = 0.0
    top_p: TopP = 1.0
    stream: bool = False
    stream_options: StreamOptions | None = None


class AnswerResponse(ResponseModel):
    id: str
    object: Literal["rag.answer"]
    created: int
    model: str
    answer: str
    finish_reason: FinishReason
    sources: list[PassageObject]
    trace: TraceObject
    usage: Usage


class AnswerChunk(ResponseModel):
    """An event of a stream: the first has ``sources``, the last ``trace`` and ``usage``."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    system_fingerprint: str
    sources: list[PassageObject] | None = None
    trace: TraceObject | None = None
    usage: Usage | None = None
