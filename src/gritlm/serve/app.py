"""The FastAPI application: routes, middleware and error handlers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from gritlm import __version__
from gritlm.serve import errors
from gritlm.serve.api import (
    adaptations,
    chat_completions,
    completions,
    embeddings,
    models,
    operations,
    rerank,
)
from gritlm.serve.config import ServerConfig
from gritlm.serve.dialects import anthropic, cohere, ollama, ollama_models, responses, tei, vllm
from gritlm.serve.documents import routes as document_routes
from gritlm.serve.documents.rag_chat import chat_creator
from gritlm.serve.http.access_log import RequestContext
from gritlm.serve.http.auth import RequireHost, RequireKey, RequireOwnPage
from gritlm.serve.http.body_limit import BodyLimit
from gritlm.serve.http.paths import HEALTH, LIVE, METRICS, SCHEMA
from gritlm.serve.media_decoding import media_rules
from gritlm.serve.schemas.base import HEADER, refuse_unknown_fields
from gritlm.serve.service import Service

if TYPE_CHECKING:
    from gritlm.serve.documents.handlers import DocumentApi

ABOUT = "Chats, embeddings, reranking and cached RAG from one set of weights."


def create_app(service: Service) -> FastAPI:
    """Build the application; every path outside :func:`open_paths` needs an API key."""
    app = FastAPI(
        title="gritlm",
        summary=ABOUT,
        version=__version__,
        openapi_url=SCHEMA,
        docs_url=None,
        redoc_url=None,
        middleware=_middleware(service),
        redirect_slashes=False,
    )
    app.state.service = service
    app.state.documents = _document_apis(service)
    errors.install_handlers(app)
    create_chat = chat_creator(service, app.state.documents)
    app.include_router(chat_completions.routes(create_chat))
    app.include_router(responses.routes(create_chat))
    for chats in (anthropic, ollama):
        app.include_router(chats.routes(service, create_chat))
    app.include_router(ollama.embedding_routes(service))
    for dialect in (cohere, ollama_models, tei, vllm):
        app.include_router(dialect.routes(service))
    for part in (completions, embeddings, rerank, models, adaptations, operations):
        app.include_router(part.routes(service))
    app.include_router(document_routes.routes(service, app.state.documents))
    app.router.routes.extend(operations.page_routes())
    if service.settings.strict:
        refuse_unknown_fields(app.openapi())
    return app


def _document_apis(service: Service) -> dict[str, DocumentApi]:
    """Build the handlers of each document store, which close with the service."""
    if not service.stores.engines:
        return {}
    from gritlm.serve.documents.handlers import DocumentApi

    settings = service.settings
    apis = {
        name: DocumentApi(name, engine, settings.reader, media_rules(settings))
        for name, engine in service.stores.engines.items()
    }
    for api in apis.values():
        service.on_close(api.close)
    return apis


def open_paths(settings: ServerConfig) -> frozenset[str]:
    """Return the paths that need no API key for GET and HEAD."""
    paths = {HEALTH, LIVE, *operations.page()}
    return frozenset(paths | {METRICS} if settings.open_metrics else paths)


def _middleware(service: Service) -> list[Middleware]:
    """Return the middleware, the outermost first."""
    settings = service.settings
    layers = [
        Middleware(
            RequestContext,
            service=service,
            quiet_paths=(HEALTH, LIVE, METRICS),
            page=operations.page(),
        ),
        Middleware(RequireHost, hosts=settings.hosts),
    ]
    if settings.cors_origins:
        layers.append(
            Middleware(
                CORSMiddleware,
                allow_origins=settings.cors_origins,
                allow_methods=["*"],
                allow_headers=["*"],
                expose_headers=["X-Request-ID", "Retry-After", HEADER],
            )
        )
    return [
        *layers,
        Middleware(
            RequireKey,
            ring=service.key_ring,
            needs_key=settings.needs_key,
            open_paths=open_paths(settings),
        ),
        Middleware(RequireOwnPage, origins=settings.cors_origins),
        Middleware(
            BodyLimit,
            max_bytes=settings.max_body_bytes,
            max_total_bytes=settings.max_total_body_bytes,
            timeout_s=settings.body_timeout_s,
        ),
    ]
