"""OpenAI's endpoints, and reranking."""

from __future__ import annotations

from fastapi import APIRouter, Response

from gritlm.serve.api import embeddings, text_generation
from gritlm.serve.api.router import new_router, stream_of
from gritlm.serve.http.paths import CHAT, COMPLETIONS, EMBEDDINGS, RERANK
from gritlm.serve.schemas.chat_completions import ChatBody, ChatChunk, ChatReply
from gritlm.serve.schemas.completions import CompletionsBody, CompletionsReply
from gritlm.serve.schemas.embeddings import (
    EmbeddingsBody,
    EmbeddingsReply,
    RerankBody,
    RerankReply,
)
from gritlm.serve.service import Service


def routes(service: Service) -> APIRouter:
    router = new_router(tags=["model"])

    @router.post(CHAT, response_model=ChatReply, responses=stream_of(ChatChunk), summary="Chat")
    async def chat(body: ChatBody) -> Response:
        """Answer a conversation, as a whole or as a stream."""
        return await text_generation.chat(service, body)

    @router.post(
        COMPLETIONS, response_model=CompletionsReply,
        responses=stream_of(CompletionsReply), summary="Complete",
    )  # fmt: skip
    async def complete(body: CompletionsBody) -> Response:
        """Go on with texts, as a whole or as a stream."""
        return await text_generation.complete(service, body)

    @router.post(EMBEDDINGS, response_model=EmbeddingsReply, summary="Embed")
    async def embed(body: EmbeddingsBody) -> Response:
        """Texts to vectors."""
        return await embeddings.embed(service, body)

    @router.post(RERANK, response_model=RerankReply, summary="Rerank")
    async def rerank(body: RerankBody) -> Response:
        """Order documents by how well they fit a query."""
        return await embeddings.rerank(service, body)

    return router
