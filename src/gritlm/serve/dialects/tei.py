"""text-embeddings-inference: ``/embed``, and ``/rerank`` in its form or in that of Jina."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from gritlm.serve.api.embeddings import create_embeddings
from gritlm.serve.api.rerank import create_ranking, respond_ranked
from gritlm.serve.api.streaming import json_response
from gritlm.serve.dialects.translation import translated, vector_response
from gritlm.serve.errors import invalid
from gritlm.serve.http.paths import PLAIN_RERANK, TEI_EMBED
from gritlm.serve.schemas.embeddings import EmbeddingsRequest, RerankRequest
from gritlm.serve.schemas.tei import (
    PlainRerankRequest,
    PlainRerankResponse,
    TeiEmbedRequest,
    TeiEmbedResponse,
    TeiError,
)
from gritlm.serve.service import Service
from gritlm.serve.strict_json import new_router

_RANKED = set(RerankRequest.model_fields)


def routes(service: Service) -> APIRouter:
    """Return the routes."""
    router = new_router(tags=["text-embeddings-inference"])
    router.include_router(_embed_route(service))

    @router.post(PLAIN_RERANK, response_model=PlainRerankResponse, summary="Rerank")
    async def rerank(body: PlainRerankRequest) -> Response:
        """Sort documents by their relevance to a query, the most relevant first."""
        if (body.documents is None) == (body.texts is None):
            raise invalid("give one of 'documents' and 'texts'", param="documents")
        fields: dict[str, Any] = body.model_dump(include=_RANKED)
        if body.texts is None:
            return await respond_ranked(service, PLAIN_RERANK, translated(RerankRequest, fields))
        fields["documents"] = body.texts
        if body.truncate:
            fields["truncate_prompt_tokens"] = -1
        request = translated(RerankRequest, fields)
        raw = bool(body.raw_scores)
        ranking = await create_ranking(service, PLAIN_RERANK, request, raw=raw)
        ranks: list[dict[str, Any]] = []
        for index, score in ranking.results:
            ranks.append({"index": index, "score": score})
            if body.return_text:
                ranks[-1]["text"] = ranking.texts[index]
        return json_response(ranks)

    return router


def _embed_route(service: Service) -> APIRouter:
    router = new_router(error=TeiError)

    @router.post(TEI_EMBED, response_model=TeiEmbedResponse, summary="Embed (TEI)")
    async def embed(body: TeiEmbedRequest) -> Response:
        """Embed texts: one vector for each text, in the order of the texts."""
        normalized = service.served(body.model).model.settings.normalized
        if body.normalize is not None and body.normalize != normalized:
            raise invalid(
                f"normalize={body.normalize}, and the vectors of this model are "
                f"{'' if normalized else 'not '}normalized; leave it out",
                param="normalize",
                code="unsupported_value",
            )
        fields = {
            "model": body.model,
            "input": body.inputs,
            "dimensions": body.dimensions,
            "input_type": body.prompt_name,
            "truncate": bool(body.truncate),
        }
        request = translated(EmbeddingsRequest, fields)
        embedded = await create_embeddings(service, TEI_EMBED, request)
        return await vector_response(service, embedded.vectors_ND)

    return router
