"""LangChain: embeddings, a chat model, a retriever, and answers from cached state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gritlm.integrations import frameworks

if TYPE_CHECKING:
    from gritlm.integrations.langchain.langchain_answers import cached_answers
    from gritlm.integrations.langchain.langchain_chat import ChatGritLM
    from gritlm.integrations.langchain.langchain_embeddings import GritLMEmbeddings
    from gritlm.integrations.langchain.langchain_retriever import GritLMRetriever

__all__ = ["ChatGritLM", "GritLMEmbeddings", "GritLMRetriever", "cached_answers"]

_HOMES = {
    "ChatGritLM": "gritlm.integrations.langchain.langchain_chat",
    "GritLMEmbeddings": "gritlm.integrations.langchain.langchain_embeddings",
    "GritLMRetriever": "gritlm.integrations.langchain.langchain_retriever",
    "cached_answers": "gritlm.integrations.langchain.langchain_answers",
}

__getattr__, __dir__ = frameworks.names(
    __name__, _HOMES, library="langchain_core", extra="langchain"
)
