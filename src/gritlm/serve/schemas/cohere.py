"""Models of Cohere's API: ``/v1/embed``, ``/v2/embed`` and ``/v2/rerank``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from gritlm.serve.config import MAX_INPUTS
from gritlm.serve.schemas.base import Hint, RequestModel, ResponseModel
from gritlm.serve.schemas.chat_completions import Null
from gritlm.serve.schemas.embeddings import Rerankable

InputType = Literal["search_document", "search_query", "classification", "clustering"]
NumberFormat = Literal["float", "int8", "uint8", "binary", "ubinary", "base64"]


class TextContent(RequestModel):
    type: Literal["text"]
    text: str = Field(min_length=1)


class EmbedInput(RequestModel):
    """An input of parts, which are joined; images are not supported."""

    content: Annotated[list[TextContent], Field(fail_fast=True, min_length=1, max_length=64)]


class CohereEmbedRequest(RequestModel):
    """Embed request as in Cohere's API, version 1 and 2: ``texts`` or ``inputs``."""

    model: str | None = None
    input_type: InputType | None = Field(
        None, description="search_query uses the model's own instruction for queries."
    )
    texts: (
        Annotated[
            list[Annotated[str, Field(min_length=1)]],
            Field(fail_fast=True, min_length=1, max_length=MAX_INPUTS),
        ]
        | None
    ) = None
    inputs: (
        Annotated[list[EmbedInput], Field(fail_fast=True, min_length=1, max_length=MAX_INPUTS)]
        | None
    ) = None
    images: Null = None
    embedding_types: Annotated[list[NumberFormat], Field(min_length=1, max_length=6)] | None = (
        Field(None, description="Number formats of the vectors; float by default.")
    )
    output_dimension: int | None = Field(None, ge=1, le=2**31 - 1)
    max_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    truncate: Literal["NONE", "END"] | None = Field(
        None, description="END, the default, cuts long texts at their end. NONE refuses them."
    )
    priority: Hint = None


class ApiVersion(ResponseModel):
    version: str


class BilledUnits(ResponseModel):
    input_tokens: int | None = None
    search_units: int | None = None


class Meta(ResponseModel):
    api_version: ApiVersion
    billed_units: BilledUnits


class CohereEmbedResponse(ResponseModel):
    """Vectors as a list, or in lists by the name of their number format."""

    id: str
    response_type: Literal["embeddings_floats", "embeddings_by_type"]
    embeddings: list[list[float]] | dict[NumberFormat, list[Any]]
    texts: list[str]
    meta: Meta


class RerankV2Request(RequestModel):
    """Rerank request as in Cohere's API, version 2; long documents are cut."""

    model: str | None = None
    query: str = Field(min_length=1)
    documents: Rerankable
    top_n: int | None = Field(None, ge=1, le=2**31 - 1)
    max_tokens_per_doc: int | None = Field(None, ge=1, le=2**31 - 1)
    return_documents: bool | None = None
    priority: Hint = None


class RerankV2Result(ResponseModel):
    index: int
    relevance_score: float


class RerankV2Response(ResponseModel):
    id: str
    results: list[RerankV2Result]
    meta: Meta


class CohereError(ResponseModel):
    id: str
    message: str
