"""Paths of the routes."""

from __future__ import annotations

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
RERANK = "/v1/rerank"
MODELS = "/v1/models"
DOCUMENTS = "/v1/rag/documents"
SEARCH = "/v1/rag/search"
ANSWER = "/v1/rag/answer"
TOKENIZE = "/tokenize"
DETOKENIZE = "/detokenize"
HEALTH = "/health"
LIVE = "/health/live"
METRICS = "/metrics"
SCHEMA = "/openapi.json"

ROUTES = frozenset(
    {
        CHAT,
        COMPLETIONS,
        EMBEDDINGS,
        RERANK,
        MODELS,
        DOCUMENTS,
        SEARCH,
        ANSWER,
        TOKENIZE,
        DETOKENIZE,
        HEALTH,
        LIVE,
        METRICS,
        SCHEMA,
    }
)
ROUTES_WITH_ID = {  # by the beginnings of their paths
    MODELS + "/": MODELS + "/{name}",
    DOCUMENTS + "/": DOCUMENTS + "/{document_id}",
}

API = ("/v1/", TOKENIZE, DETOKENIZE)  # beginnings of the paths of the API
