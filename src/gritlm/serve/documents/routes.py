"""``/v1/rag``: routes. A server without a store has them too, and answers how to add one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Path, Query, Response

from gritlm.serve.api.streaming import json_response
from gritlm.serve.documents.cursors import LONGEST
from gritlm.serve.http.paths import ANSWER, DOCUMENTS, PASSAGE_MEDIA, SEARCH, STORES
from gritlm.serve.schemas.rag import (
    AddDocumentsRequest,
    AddDocumentsResponse,
    AddProgress,
    AnswerChunk,
    AnswerRequest,
    AnswerResponse,
    DeleteDocumentResponse,
    DocumentListResponse,
    SearchRequest,
    SearchResponse,
    StoreListResponse,
)
from gritlm.serve.schemas.rag_options import STORE_NAME
from gritlm.serve.service import Service
from gritlm.serve.strict_json import new_router, stream_of

if TYPE_CHECKING:
    from gritlm.serve.documents.handlers import DocumentApi

_MOST_DOCUMENTS = 1000  # of a page
_AFTER = "last_id of the page before."
_LIMIT = "Most documents of the page."
_STORE = "Name of the store; it may be left out if the key has one store, or one named default."

_MEDIA: dict[int | str, dict[str, object]] = {
    200: {
        "description": "A PNG image, or a WAV file.",
        "content": {
            name: {"schema": {"type": "string", "format": "binary"}}
            for name in ("image/png", "audio/wav")
        },
    }
}

StoreName = Annotated[str | None, Query(alias="store", max_length=STORE_NAME, description=_STORE)]


def routes(service: Service, apis: Mapping[str, DocumentApi]) -> APIRouter:
    """Return the routes of documents, search and answers.

    Args:
        service: the model behind the routes.
        apis: handlers over each store, by its name.
    """
    router = new_router(tags=["documents"])

    def store(name: str | None, model: str | None = None) -> DocumentApi:
        return apis[service.choose_store(name, model)]

    @router.get(STORES, response_model=StoreListResponse, summary="List stores")
    async def list_stores() -> Response:
        """List the stores that the key of the request may use, with their numbers of documents."""
        data = [await apis[name].describe(service) for name in service.stores.visible]
        return json_response({"object": "list", "data": data})

    @router.post(
        DOCUMENTS,
        response_model=AddDocumentsResponse,
        responses=stream_of(AddProgress),
        summary="Add documents",
    )
    async def add(body: AddDocumentsRequest) -> Response:
        """Split documents or files into passages, embed them and store their key/value state. The
        events of a stream begin when the files are read."""
        return await store(body.store).add(service, body)

    @router.get(DOCUMENTS, response_model=DocumentListResponse, summary="List documents")
    async def list_documents(
        after: Annotated[str | None, Query(max_length=LONGEST, description=_AFTER)] = None,
        limit: Annotated[int, Query(ge=1, le=_MOST_DOCUMENTS, description=_LIMIT)] = 100,
        store_name: StoreName = None,
    ) -> Response:
        """List the stored documents in the order of their ids."""
        api = store(store_name)
        return await api.list_documents(service, after=after, limit=limit)

    @router.delete(
        DOCUMENTS + "/{document_id:path}",
        response_model=DeleteDocumentResponse,
        summary="Delete a document",
    )
    async def delete(document_id: str, store_name: StoreName = None) -> Response:
        """Delete a document, its passages and their key/value state."""
        return await store(store_name).delete(service, document_id)

    _search_routes(router, service, store)
    return router


def _search_routes(router: APIRouter, service: Service, store: Callable[..., DocumentApi]) -> None:
    """Add the routes of passages: the search, answers, and their images and sounds.

    Args:
        router: router of documents.
        service: the model behind the routes.
        store: function that returns the handlers of a store by its name and its model.
    """

    @router.get(
        PASSAGE_MEDIA,
        response_class=Response,
        responses=_MEDIA,
        summary="Get the image or the sound of a passage",
    )
    async def media(
        passage_id: Annotated[str, Path(max_length=LONGEST)], store_name: StoreName = None
    ) -> Response:
        """Return the image or the sound that was embedded as a passage."""
        return await store(store_name).media(service, passage_id)

    @router.post(SEARCH, response_model=SearchResponse, summary="Search passages")
    async def search(body: SearchRequest) -> Response:
        """Find the passages nearest to a question."""
        return await store(body.store, body.model).search(service, body)

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
        return await store(body.store, body.model).answer(service, body)
