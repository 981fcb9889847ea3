"""Models of text-embeddings-inference: ``/embed``, and its form of ``/rerank``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, RootModel

from gritlm.serve.config import MAX_INPUTS
from gritlm.serve.schemas.base import RequestModel, ResponseModel
from gritlm.serve.schemas.embeddings import Rerankable, RerankRequest, RerankResponse

_Text = Annotated[str, Field(min_length=1)]


class TeiEmbedRequest(RequestModel):
    """Embed request as in text-embeddings-inference."""

    inputs: (
        _Text | Annotated[list[_Text], Field(fail_fast=True, min_length=1, max_length=MAX_INPUTS)]
    )
    model: str | None = None
    truncate: bool | None = Field(None, description="Cut long texts instead of refusing them.")
    truncation_direction: Literal["Right", "right"] | None = None
    normalize: bool | None = Field(
        None, description="Only true on a server whose vectors are normalized, the default."
    )
    prompt_name: Literal["query", "document", "passage"] | None = Field(
        None, description="query uses the model's own instruction for queries."
    )
    dimensions: int | None = Field(None, ge=1, le=2**31 - 1)


class TeiEmbedResponse(RootModel[list[list[float]]]):
    """Vectors of the texts, in their order."""


class TeiError(ResponseModel):
    error: str
    error_type: str


class PlainRerankRequest(RerankRequest):
    """Rerank request as in vLLM and the APIs of Cohere and Jina, or with ``texts`` instead of
    ``documents``, as in text-embeddings-inference."""

    documents: Rerankable | None = None  # type: ignore[assignment]
    texts: Rerankable | None = None
    return_text: bool | None = Field(None, description="Only for texts, as are the next fields.")
    truncate: bool | None = Field(None, description="Cut long texts instead of refusing them.")
    truncation_direction: Literal["Right", "right"] | None = None
    raw_scores: bool | None = Field(
        None, description="Only for texts: log-odds instead of probabilities; cosines stay."
    )


class TeiRank(ResponseModel):
    index: int
    score: float
    text: str | None = None


class PlainRerankResponse(RootModel[RerankResponse | list[TeiRank]]):
    """Results for ``documents``, or a plain list for ``texts``."""
