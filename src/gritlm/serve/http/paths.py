"""Paths of the routes."""

from __future__ import annotations

from gritlm.serve import access

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
RERANK = "/v1/rerank"
MODELS = "/v1/models"
ADAPTATIONS = "/v1/adaptations"
STORES = "/v1/rag/stores"
DOCUMENTS = "/v1/rag/documents"
MEDIA = "/v1/rag/media"
PASSAGE_MEDIA = MEDIA + "/{passage_id}"
SEARCH = "/v1/rag/search"
ANSWER = "/v1/rag/answer"
RESPONSES = "/v1/responses"
SCORE = "/score"
V1_SCORE = "/v1/score"
PLAIN_RERANK = "/rerank"
COHERE_EMBED = "/v1/embed"
COHERE_V2_EMBED = "/v2/embed"
COHERE_V2_RERANK = "/v2/rerank"
TEI_EMBED = "/embed"
MESSAGES = "/v1/messages"
COUNT_TOKENS = "/v1/messages/count_tokens"
OLLAMA = "/api/"
COHERE_V2 = "/v2/"
OLLAMA_CHAT = "/api/chat"
OLLAMA_GENERATE = "/api/generate"
OLLAMA_EMBED = "/api/embed"
OLLAMA_EMBEDDINGS = "/api/embeddings"
OLLAMA_TAGS = "/api/tags"
OLLAMA_SHOW = "/api/show"
OLLAMA_PS = "/api/ps"
OLLAMA_VERSION = "/api/version"
TOKENIZE = "/tokenize"
DETOKENIZE = "/detokenize"
HEALTH = "/health"
LIVE = "/health/live"
METRICS = "/metrics"
SCHEMA = "/openapi.json"
DOCS = "/docs"

OLLAMA_PATHS = (
    OLLAMA_CHAT,
    OLLAMA_GENERATE,
    OLLAMA_EMBED,
    OLLAMA_EMBEDDINGS,
    OLLAMA_TAGS,
    OLLAMA_SHOW,
    OLLAMA_PS,
    OLLAMA_VERSION,
)
ROUTES = frozenset(
    {
        CHAT,
        COMPLETIONS,
        EMBEDDINGS,
        RERANK,
        MODELS,
        ADAPTATIONS,
        STORES,
        DOCUMENTS,
        SEARCH,
        ANSWER,
        RESPONSES,
        SCORE,
        V1_SCORE,
        PLAIN_RERANK,
        COHERE_EMBED,
        COHERE_V2_EMBED,
        COHERE_V2_RERANK,
        TEI_EMBED,
        MESSAGES,
        COUNT_TOKENS,
        *OLLAMA_PATHS,
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
    MEDIA + "/": PASSAGE_MEDIA,
}

_ANY_KEY: tuple[str, ...] = ()
# Rights that the key of a request needs; changes of documents need the right to write instead.
RIGHTS_OF = {
    **dict.fromkeys((CHAT, COMPLETIONS, RESPONSES, MESSAGES, COUNT_TOKENS), (access.CHAT,)),
    **dict.fromkeys((OLLAMA_CHAT, OLLAMA_GENERATE), (access.CHAT,)),
    **dict.fromkeys((EMBEDDINGS, COHERE_EMBED, COHERE_V2_EMBED, TEI_EMBED), (access.EMBED,)),
    **dict.fromkeys((OLLAMA_EMBED, OLLAMA_EMBEDDINGS, SCORE, V1_SCORE), (access.EMBED,)),
    **dict.fromkeys((RERANK, PLAIN_RERANK, COHERE_V2_RERANK), (access.EMBED,)),
    **dict.fromkeys((DOCUMENTS, DOCUMENTS + "/{document_id}", SEARCH, STORES), (access.SEARCH,)),
    PASSAGE_MEDIA: (access.SEARCH,),
    ANSWER: (access.SEARCH, access.CHAT),
    METRICS: (access.ADMIN,),
    **dict.fromkeys((MODELS, MODELS + "/{name}", ADAPTATIONS, TOKENIZE, DETOKENIZE), _ANY_KEY),
    **dict.fromkeys((OLLAMA_TAGS, OLLAMA_SHOW, OLLAMA_PS, OLLAMA_VERSION), _ANY_KEY),
    **dict.fromkeys((HEALTH, LIVE, SCHEMA), _ANY_KEY),
}

# beginnings of the paths of the API
API = ("/v1/", COHERE_V2, OLLAMA, SCORE, PLAIN_RERANK, TEI_EMBED, TOKENIZE, DETOKENIZE)
