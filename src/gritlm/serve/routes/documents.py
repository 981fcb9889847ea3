"""``/v1/rag``: there on every server, so that one without a store can say how to get one."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from gritlm.serve.cursors import LONGEST
from gritlm.serve.paths import ANSWER, DOCUMENTS, SEARCH
from gritlm.serve.routes.base import new_router, stream_of
from gritlm.serve.schemas.rag import (
    AddBody,
    AddReply,
    AnswerBody,
    AnswerChunk,
    AnswerReply,
    DeletedReply,
    DocumentsReply,
    SearchBody,
    SearchReply,
)
from gritlm.serve.service import Service

_MOST = 1000


def routes(service: Service) -> APIRouter:
    router = new_router(tags=["documents"])

    @router.post(DOCUMENTS, response_model=AddReply, summary="Add documents")
    async def add(body: AddBody) -> Response:
        """Cut documents or files into passages, embed them, and keep what that leaves behind."""
        return await service.documents.add(service, body)

    @router.get(DOCUMENTS, response_model=DocumentsReply, summary="List documents")
    async def listed(
        after: Annotated[str | None, Query(max_length=LONGEST)] = None,
        limit: Annotated[int, Query(ge=1, le=_MOST)] = 100,
    ) -> Response:
        """What is stored, in the order of ids."""
        return await service.documents.listed(service, after=after, limit=limit)

    @router.delete(
        DOCUMENTS + "/{document_id:path}", response_model=DeletedReply, summary="Delete a document"
    )
    async def delete(document_id: str) -> Response:
        """Forget a document."""
        return await service.documents.delete(service, document_id)

    @router.post(SEARCH, response_model=SearchReply, summary="Search passages")
    async def search(body: SearchBody) -> Response:
        """Passages that are nearest to a question."""
        return await service.documents.search(service, body)

    @router.post(
        ANSWER, response_model=AnswerReply, responses=stream_of(AnswerChunk),
        summary="Answer from documents",
    )  # fmt: skip
    async def answer(body: AnswerBody) -> Response:
        """Find passages and answer from them. A stream's events look like chat chunks: the first
        has ``sources``, the last ``trace`` and ``usage``."""
        return await service.documents.answer(service, body)

    return router
