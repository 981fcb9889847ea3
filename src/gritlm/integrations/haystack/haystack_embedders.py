"""Embedders of texts and documents in process, for pipelines of Haystack."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from haystack import Document as HaystackDocument
from haystack import component, default_to_dict

from gritlm.errors import InputError
from gritlm.integrations.haystack.saved_components import saved_model
from gritlm.integrations.local_models import ModelLike, TextEmbedder, model_of


@component
class GritLMTextEmbedder:
    """Embeds a query.

    Args:
        model: a GritLM, or the name or folder of one, loaded at the first use; None for the
            default model.
        instruction: instruction of queries, ``Retrieve ...``; None for that of the model.
        truncate_dim: number of dimensions to keep; None for all.
    """

    def __init__(
        self,
        model: ModelLike = None,
        instruction: str | None = None,
        truncate_dim: int | None = None,
    ) -> None:
        self.model = model
        self.instruction = instruction
        self.truncate_dim = truncate_dim

    def to_dict(self) -> dict[str, Any]:
        """Return the component for a saved pipeline."""
        return default_to_dict(
            self,
            model=saved_model(self.model),
            instruction=self.instruction,
            truncate_dim=self.truncate_dim,
        )

    def warm_up(self) -> None:
        """Load the model."""
        model_of(self.model).require_embedding()

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict[str, Any]:
        """Return the vector of a query as ``embedding``."""
        embedder = TextEmbedder(self.model, self.instruction, truncate_dim=self.truncate_dim)
        return {"embedding": embedder.query(text)}


@component
class GritLMDocumentEmbedder:
    """Embeds documents: their title, if their ``meta`` has one, and their content.

    Args:
        model: a GritLM, or the name or folder of one, loaded at the first use; None for the
            default model.
        instruction: instruction of documents; they usually have none.
        batch_size: maximum number of documents in a batch.
        truncate_dim: number of dimensions to keep; None for all.
    """

    def __init__(
        self,
        model: ModelLike = None,
        instruction: str = "",
        batch_size: int = 256,
        truncate_dim: int | None = None,
    ) -> None:
        self.model = model
        self.instruction = instruction
        self.batch_size = batch_size
        self.truncate_dim = truncate_dim

    def to_dict(self) -> dict[str, Any]:
        """Return the component for a saved pipeline."""
        return default_to_dict(
            self,
            model=saved_model(self.model),
            instruction=self.instruction,
            batch_size=self.batch_size,
            truncate_dim=self.truncate_dim,
        )

    def warm_up(self) -> None:
        """Load the model."""
        model_of(self.model).require_embedding()

    @component.output_types(documents=list[HaystackDocument])
    def run(self, documents: list[HaystackDocument]) -> dict[str, Any]:
        """Return the documents with their vectors."""
        embedder = TextEmbedder(
            self.model,
            document_instruction=self.instruction,
            batch_size=self.batch_size,
            truncate_dim=self.truncate_dim,
        )
        vectors = embedder.documents([_text(document) for document in documents])
        embedded = [
            replace(document, embedding=vector)
            for document, vector in zip(documents, vectors, strict=True)
        ]
        return {"documents": embedded}


def _text(document: HaystackDocument) -> str:
    """Return title and content, joined as ``encode_corpus`` does.

    Raises:
        InputError: for a document without text, such as an image.
    """
    if document.content is None:
        raise InputError(f"document {document.id!r} has no content; the model embeds text")
    return f"{document.meta.get('title', '')} {document.content}".strip()
