"""OpenAI's endpoints, and reranking."""

from __future__ import annotations

from fastapi import APIRouter, Response

from gritlm.serve.api import embeddings, text_generation
from gritlm.serve.api.router import new_router, stream_of
from gritlm.serve.http.paths import CHAT, COMPLETIONS, EMBEDDINGS, RERANK
from gritlm.serve.schemas.chat_completions import (
    ChatCompletionChunk,
    ChatCompletionRequest,
    ChatCompletionResponse,
)
from gritlm.serve.schemas.completions import CompletionRequest, CompletionResponse
from gritlm.serve.schemas.embeddings import (
    EmbeddingsRequest,
    EmbeddingsResponse,
    RerankRequest,
    RerankResponse,
)
from gritlm.serve.service import Service


def routes(service: Service) -> APIRouter:
    router = new_router(tags=["model"])

    @router.post(
        CHAT,
        response_model=ChatCompletionResponse,
        responses=stream_of(ChatCompletionChunk),
        summary="Chat",
    )
    async def chat(body: ChatCompletionRequest) -> Response:
        """Answer a conversation, as a whole or as a stream."""
        return await text_generation.chat(service, body)

    @router.post(
        COMPLETIONS,
        response_model=CompletionResponse,
        responses=stream_of(CompletionResponse),
        summary="Complete",
    )
    async def complete(body: CompletionRequest) -> Response:
        """Go on with texts, as a whole or as a stream."""
        return await text_generation.complete(service, body)

    @router.post(EMBEDDINGS, response_model=EmbeddingsResponse, summary="Embed")
    async def embed(body: EmbeddingsRequest) -> Response:
        """Texts to vectors."""
        return await embeddings.embed(service, body)

    @router.post(RERANK, response_model=RerankResponse, summary="Rerank")
    async def rerank(body: RerankRequest) -> Response:
        """Order documents by how well they fit a query."""
        return await embeddings.rerank(service, body)

    return router
