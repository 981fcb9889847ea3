"""Embeddings of a model in process, for LangChain's vector stores."""

from __future__ import annotations

from langchain_core.embeddings import Embeddings

from gritlm.integrations.local_models import TextEmbedder


class GritLMEmbeddings(TextEmbedder, Embeddings):
    """Embeddings of queries and documents by one model in this process.

    Its arguments are those of :class:`TextEmbedder`: ``model`` (a GritLM, a name or a folder),
    ``query_instruction``, ``document_instruction``, ``batch_size`` and ``truncate_dim``.
    """

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return the vectors of documents."""
        return self.documents(texts)

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a query."""
        return self.query(text)
