"""The paths of the server."""

from __future__ import annotations

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
RERANK = "/v1/rerank"
MODELS = "/v1/models"
DOCUMENTS = "/v1/rag/documents"
SEARCH = "/v1/rag/search"
ANSWER = "/v1/rag/answer"
TOKENIZE, DETOKENIZE = "/tokenize", "/detokenize"
HEALTH, LIVE, METRICS = "/health", "/health/live", "/metrics"
SCHEMA = "/openapi.json"

API = ("/v1/", TOKENIZE, DETOKENIZE)  # what all others of it begin with
