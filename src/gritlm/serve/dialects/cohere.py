"""Cohere's API: ``/v1/embed``, ``/v2/embed`` and ``/v2/rerank``. Version 1 reranks as Jina does."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Response

from gritlm.serve.api.embeddings import Vectors, create_embeddings
from gritlm.serve.api.rerank import create_ranking
from gritlm.serve.api.streaming import json_response
from gritlm.serve.dialects.translation import in_format, translated, vector_response
from gritlm.serve.errors import invalid
from gritlm.serve.http.paths import COHERE_EMBED, COHERE_V2_EMBED, COHERE_V2_RERANK
from gritlm.serve.schemas.cohere import (
    CohereEmbedRequest,
    CohereEmbedResponse,
    CohereError,
    RerankV2Request,
    RerankV2Response,
)
from gritlm.serve.schemas.embeddings import EmbeddingsRequest, RerankRequest
from gritlm.serve.service import Service
from gritlm.serve.strict_json import new_router

_FLOATS = "embeddings_floats"  # response of version 1 to a request without number formats


def routes(service: Service) -> APIRouter:
    """Return the routes of Cohere's API."""
    router = new_router(error=CohereError, tags=["cohere"])

    @router.post(COHERE_EMBED, response_model=CohereEmbedResponse, summary="Embed (Cohere v1)")
    async def embed(body: CohereEmbedRequest) -> Response:
        """Embed texts; the vectors are a list unless ``embedding_types`` names number formats."""
        return await _embed(service, body, version=1)

    @router.post(COHERE_V2_EMBED, response_model=CohereEmbedResponse, summary="Embed (Cohere v2)")
    async def embed_v2(body: CohereEmbedRequest) -> Response:
        """Embed texts, in one or several number formats."""
        return await _embed(service, body, version=2)

    @router.post(COHERE_V2_RERANK, response_model=RerankV2Response, summary="Rerank (Cohere v2)")
    async def rerank_v2(body: RerankV2Request) -> Response:
        """Sort documents by their relevance to a query, the most relevant first."""
        fields = {
            "model": body.model,
            "query": body.query,
            "documents": body.documents,
            "top_n": body.top_n,
            "truncate_prompt_tokens": _cut(service, body.model, body.max_tokens_per_doc),
        }
        request = translated(RerankRequest, fields)
        ranking = await create_ranking(service, COHERE_V2_RERANK, request)
        results = ranking.as_results(documents=bool(body.return_documents))
        meta = _meta(2, search_units=1)
        return json_response({"id": str(uuid4()), "results": results, "meta": meta})

    return router


async def _embed(service: Service, body: CohereEmbedRequest, *, version: int) -> Response:
    texts = _texts(body)
    fields = {
        "model": body.model,
        "input": texts,
        "dimensions": body.output_dimension,
        "input_type": "query" if body.input_type == "search_query" else "document",
        "truncate_prompt_tokens": _cut(service, body.model, body.max_tokens),
    }
    if body.truncate == "NONE":
        fields["truncate_prompt_tokens"] = None
    path = COHERE_EMBED if version == 1 else COHERE_V2_EMBED
    embedded = await create_embeddings(service, path, translated(EmbeddingsRequest, fields))
    by_type = version == 2 or body.embedding_types is not None
    vectors = _in_formats(embedded.vectors_ND, body.embedding_types or ["float"])
    content = {
        "id": str(uuid4()),
        "response_type": "embeddings_by_type" if by_type else _FLOATS,
        "embeddings": vectors if by_type else vectors["float"],
        "texts": texts,
        "meta": _meta(version, input_tokens=embedded.tokens),
    }
    return await vector_response(service, content)


def _in_formats(vectors_ND: Vectors, names: list[Any]) -> dict[str, Any]:
    return {name: in_format(vectors_ND, name) for name in names}


def _texts(body: CohereEmbedRequest) -> list[str]:
    """Return the texts of a request.

    Raises:
        ApiError: unless it has either texts or inputs.
    """
    if (body.texts is None) == (body.inputs is None):
        raise invalid("give one of 'texts' and 'inputs'", param="texts")
    if body.texts is not None:
        return body.texts
    assert body.inputs is not None
    return ["".join(part.text for part in each.content) for each in body.inputs]


def _cut(service: Service, model: str | None, most: int | None) -> int:
    """Return the number of tokens to cut texts to; -1 for as many as the model takes."""
    limit = service.served(model).prompts.limit
    return -1 if most is None or most > limit else most


def _meta(version: int, **billed: int) -> dict[str, Any]:
    return {"api_version": {"version": str(version)}, "billed_units": billed}
