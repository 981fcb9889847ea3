"""Models of passages, and of the cost of an answer from them, in responses of all routes."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from gritlm.serve.schemas.base import ResponseModel


class MediaObject(ResponseModel):
    """Place of a passage that is an image or a sound, in its document."""

    kind: Literal["image", "sound"]
    page: int | None = Field(None, description="Number of the page, from 1.")
    start: float | None = Field(None, description="Begin of a window of sound, in seconds.")
    end: float | None = None


class PassageObject(ResponseModel):
    id: str
    document_id: str
    title: str
    text: str
    start: int = Field(
        description="Offset of the passage in the text of its document, in characters."
    )
    end: int
    score: float = Field(description="Cosine of question and passage.")
    also_in: list[str] = Field(
        description="Ids of other documents with a passage of the same text."
    )
    used: bool = Field(
        True, description="Whether the answer comes from the passage; always true in a search."
    )
    likelihood: float | None = Field(
        None,
        description="Mean log-probability of the question behind the passage; null if not needed.",
    )
    media: MediaObject | None = Field(
        None,
        description="Page or time of a passage that is an image or a sound, whose file is at "
        "/v1/rag/media/{id}; null for text.",
    )
    page: int | None = Field(
        None,
        description="Number of the page on which the passage begins, from 1; null if not known.",
    )


class TraceObject(ResponseModel):
    """Cost of an answer: tokens, bytes and milliseconds of each part."""

    fusion: str
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
    scores: list[dict[str, Any]] = Field(description="Passages that were read alone, with scores.")
    supported: bool | None = Field(
        description="Whether the passages seem to hold the answer; null where it was not judged."
    )
    dropped: list[str]
    reasons: list[str]
    warnings: list[str] = Field(description="Passages that were left out because they are damaged.")


class UrlCitation(ResponseModel):
    url: str = Field(
        description="The document's id if it is an address, otherwise the id after 'document:'."
    )
    title: str
    start_index: int
    end_index: int
    content: str = Field(description="Text of the passage.")


class Annotation(ResponseModel):
    """Passage that the whole answer comes from, as a citation in OpenAI's API."""

    type: Literal["url_citation"]
    url_citation: UrlCitation


class RagResult(ResponseModel):
    """Search, sources and cost of an answer from documents."""

    query: str = Field(description="Text that passages were searched for.")
    sources: list[PassageObject]
    trace: TraceObject
