"""LlamaIndex: an embedding, a retriever, and a query engine over cached state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gritlm.integrations import frameworks

if TYPE_CHECKING:
    from gritlm.integrations.llama_index.llama_index_embedding import GritLMEmbedding
    from gritlm.integrations.llama_index.llama_index_queries import (
        GritLMIndexRetriever,
        GritLMQueryEngine,
    )

__all__ = ["GritLMEmbedding", "GritLMIndexRetriever", "GritLMQueryEngine"]

_HOMES = {
    "GritLMEmbedding": "gritlm.integrations.llama_index.llama_index_embedding",
    "GritLMIndexRetriever": "gritlm.integrations.llama_index.llama_index_queries",
    "GritLMQueryEngine": "gritlm.integrations.llama_index.llama_index_queries",
}

__getattr__, __dir__ = frameworks.names(
    __name__, _HOMES, library="llama_index", extra="llama-index"
)
