"""A retriever over the documents of an engine or a server, for LangChain."""

from __future__ import annotations

from typing import Any

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document as LangChainDocument
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict, field_validator

from gritlm.integrations.stores import PassageStore, hit_metadata, require_store
from gritlm.rag.rerank import RerankMethod
from gritlm.rag.retrieve import Search


class GritLMRetriever(BaseRetriever):
    """Passages for a question, each with the id under which its key/value state is stored.

    Attributes:
        store: a RagEngine, or a RagClient for documents on a server.
        k: number of passages.
        filter: ``{"name": value}`` of metadata, or a condition in SQL; None searches everything.
        hybrid: search by words too, fused with the vector search by reciprocal rank.
        rerank: number of candidates that the model itself puts in order; 0 for no reranking.
        rerank_method: ``likelihood`` or ``yes-no``.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    store: Any
    k: int = 3
    filter: str | dict[str, Any] | None = None
    hybrid: bool = False
    rerank: int = 0
    rerank_method: RerankMethod = "likelihood"

    @field_validator("store")
    @classmethod
    def _is_store(cls, store: PassageStore) -> PassageStore:
        require_store(store)
        return store

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,  # noqa: ARG002 - LangChain passes it by name
        k: int | None = None,
    ) -> list[LangChainDocument]:
        search = Search(
            top_k=self.k if k is None else k,
            filter=self.filter,
            hybrid=self.hybrid,
            rerank=self.rerank,
            rerank_method=self.rerank_method,
        )
        return [
            LangChainDocument(
                id=hit.passage.id, page_content=hit.passage.text, metadata=hit_metadata(hit)
            )
            for hit in self.store.find(query, search)
        ]
