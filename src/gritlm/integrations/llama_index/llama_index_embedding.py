"""An embedding model in process, for indexes of LlamaIndex."""

from __future__ import annotations

import asyncio
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import PrivateAttr

from gritlm.integrations.local_models import ModelLike, TextEmbedder, model_of


class GritLMEmbedding(BaseEmbedding):
    """An embedding model of LlamaIndex that computes in this process.

    Args:
        model: a GritLM, or the name or folder of one; None for the default model.
        query_instruction: instruction of queries, ``Retrieve ...``; None for that of the model.
        text_instruction: instruction of documents; they usually have none.
        options: other fields of LlamaIndex's ``BaseEmbedding``, such as ``embed_batch_size``.
    """

    _texts: TextEmbedder = PrivateAttr()

    def __init__(
        self,
        model: ModelLike = None,
        *,
        query_instruction: str | None = None,
        text_instruction: str = "",
        **options: Any,
    ) -> None:
        loaded = model_of(model)
        super().__init__(model_name=str(loaded.source), **options)
        self._texts = TextEmbedder(
            loaded, query_instruction, text_instruction, batch_size=self.embed_batch_size
        )

    @classmethod
    def class_name(cls) -> str:
        """Return the name of the class in saved settings."""
        return "GritLMEmbedding"

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._texts.query(query)

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._texts.documents([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._texts.documents(texts)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)
