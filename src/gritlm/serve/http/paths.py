"""Paths of the routes, and their names in metrics."""

from __future__ import annotations

from collections.abc import Collection

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

KNOWN = frozenset(
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
NAMED = {MODELS + "/": MODELS + "/{name}", DOCUMENTS + "/": DOCUMENTS + "/{document_id}"}

API = ("/v1/", TOKENIZE, DETOKENIZE)  # beginnings of the paths of the API


def endpoint(path: str, *, page: Collection[str]) -> str:
    """Return the name of a path in metrics: one of a fixed set, whatever paths clients request.

    Args:
        path: path of a request.
        page: paths of the web page, which have one name together.
    """
    if path in KNOWN:
        return path
    named = next((name for start, name in NAMED.items() if path.startswith(start)), None)
    return named or ("/" if path in page else "other")
