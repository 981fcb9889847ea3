"""Vectors of queries and documents as lists of numbers, in the form of frameworks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gritlm.integrations.shared_models import ModelLike, model_of
from gritlm.prompts import gritlm_instruction


@dataclass(frozen=True)
class TextEmbedder:
    """Embeddings of queries and documents by one model.

    Attributes:
        model: a GritLM, or the name or folder of one; None for the default model.
        query_instruction: instruction of queries, ``Retrieve ...``; None for that of the model.
        document_instruction: instruction of documents; they usually have none.
        batch_size: maximum number of texts in a batch.
        truncate_dim: number of dimensions to keep; None for all.
    """

    model: ModelLike = None
    query_instruction: str | None = None
    document_instruction: str = ""
    batch_size: int = 256
    truncate_dim: int | None = None

    def documents(self, texts: Sequence[str]) -> list[list[float]]:
        """Return the vectors of documents."""
        if not texts:
            return []
        vectors_ND = model_of(self.model).encode_document(
            list(texts),
            instruction=gritlm_instruction(self.document_instruction),
            batch_size=self.batch_size,
            truncate_dim=self.truncate_dim,
        )
        return [[float(value) for value in vector_D] for vector_D in vectors_ND]

    def query(self, text: str) -> list[float]:
        """Return the vector of a query."""
        asked = self.query_instruction
        vector_D = model_of(self.model).encode_query(
            text,
            instruction=None if asked is None else gritlm_instruction(asked),
            truncate_dim=self.truncate_dim,
        )
        return [float(value) for value in vector_D]
