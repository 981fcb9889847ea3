"""``/v1/rag``: routes. A server without a store has them too, and answers how to add one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Query, Response

from gritlm.serve.documents.cursors import LONGEST
from gritlm.serve.errors import ApiError
from gritlm.serve.http.paths import ANSWER, DOCUMENTS, SEARCH
from gritlm.serve.schemas.rag import (
    AddDocumentsRequest,
    AddDocumentsResponse,
    AnswerChunk,
    AnswerRequest,
    AnswerResponse,
    DeleteDocumentResponse,
    DocumentListResponse,
    SearchRequest,
    SearchResponse,
)
from gritlm.serve.service import Service
from gritlm.serve.strict_json import new_router, stream_of

if TYPE_CHECKING:
    from gritlm.serve.documents.handlers import DocumentApi

_MOST_DOCUMENTS = 1000  # of a page
_AFTER = "last_id of the page before."
_LIMIT = "Most documents of the page."


def routes(service: Service, documents: DocumentApi | None) -> APIRouter:
    """Return the routes of documents, search and answers.

    Args:
        service: the model behind the routes.
        documents: handlers over the store; None for a server without one, which answers 404.
    """
    router = new_router(tags=["documents"])

    @router.post(DOCUMENTS, response_model=AddDocumentsResponse, summary="Add documents")
    async def add(body: AddDocumentsRequest) -> Response:
        """Split documents or files into passages, embed them and store their key/value state."""
        return await require_store(documents).add(service, body)

    @router.get(DOCUMENTS, response_model=DocumentListResponse, summary="List documents")
    async def list_documents(
        after: Annotated[str | None, Query(max_length=LONGEST, description=_AFTER)] = None,
        limit: Annotated[int, Query(ge=1, le=_MOST_DOCUMENTS, description=_LIMIT)] = 100,
    ) -> Response:
        """List the stored documents in the order of their ids."""
        return await require_store(documents).list_documents(service, after=after, limit=limit)

    @router.delete(
        DOCUMENTS + "/{document_id:path}",
        response_model=DeleteDocumentResponse,
        summary="Delete a document",
    )
    async def delete(document_id: str) -> Response:
        """Delete a document, its passages and their key/value state."""
        return await require_store(documents).delete(service, document_id)

    @router.post(SEARCH, response_model=SearchResponse, summary="Search passages")
    async def search(body: SearchRequest) -> Response:
        """Find the passages nearest to a question."""
        return await require_store(documents).search(service, body)

    @router.post(
        ANSWER,
        response_model=AnswerResponse,
        responses=stream_of(AnswerChunk),
        summary="Answer from documents",
    )
    async def answer(body: AnswerRequest) -> Response:
        """Find passages and generate an answer from them. The events of a stream have the form of
        chat completion chunks; the first one has ``sources``, the last one ``trace`` and
        ``usage``."""
        return await require_store(documents).answer(service, body)

    return router


def require_store(documents: DocumentApi | None) -> DocumentApi:
    """Return the handlers of documents.

    Raises:
        ApiError: on a server without a store.
    """
    if documents is None:
        raise ApiError(
            404,
            "This server has no store of documents; start it with: gritlm serve --store FOLDER",
            code="no_store",
        )
    return documents
