"""Models of adapters in this process: shared by name, and their vectors as lists of numbers."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gritlm.lm.gritlm import GritLM
from gritlm.prompts import gritlm_instruction

ModelLike = GritLM | str | Path | None

_lock = threading.Lock()


def model_of(model: ModelLike) -> GritLM:
    """Return the model of an adapter.

    Args:
        model: a model; or the name or folder of one, which is loaded once for all adapters of the
            process, so that embeddings and chats share its weights; None for the default model.
    """
    if isinstance(model, GritLM):
        return model
    with _lock:
        return _loaded("default" if model is None else str(model))


@cache
def _loaded(name: str) -> GritLM:
    return GritLM(name)


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
