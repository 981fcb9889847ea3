"""A retriever and answers from cached state, for pipelines of Haystack."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from haystack import Document as HaystackDocument
from haystack import GeneratedAnswer, component, default_from_dict, default_to_dict
from haystack.dataclasses import (
    ComponentInfo,
    StreamingCallbackT,
    StreamingChunk,
)
from haystack.utils import deserialize_callable, serialize_callable

from gritlm.integrations.haystack.saved_components import (
    restored_options,
    restored_store,
    saved_options,
    saved_store,
)
from gritlm.integrations.stores import (
    PassageStore,
    hit_metadata,
    hit_of,
    require_store,
    source_metadata,
)
from gritlm.rag.options import AnswerOptions
from gritlm.rag.retrieve import Search


@component
class GritLMDocumentRetriever:
    """Passages for a question, each with the id under which its key/value state is stored.

    Args:
        store: a RagEngine, or a RagClient for documents on a server.
        search: settings of the search; None for three passages by vectors.
    """

    def __init__(self, store: PassageStore, search: Search | None = None) -> None:
        require_store(store)
        self.store = store
        self.search = Search() if search is None else search

    def to_dict(self) -> dict[str, Any]:
        """Return the component for a saved pipeline."""
        return default_to_dict(self, store=saved_store(self.store), search=asdict(self.search))

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> GritLMDocumentRetriever:
        """Return the component of a saved pipeline."""
        settings = data["init_parameters"]
        settings["store"] = restored_store(settings["store"])
        settings["search"] = Search(**settings["search"])
        return default_from_dict(cls, data)

    @component.output_types(documents=list[HaystackDocument])
    def run(
        self, query: str, filters: dict[str, Any] | None = None, top_k: int | None = None
    ) -> dict[str, Any]:
        """Return the passages as ``documents``, the best first.

        Args:
            query: the question.
            filters: ``{"name": value}`` of metadata; None for those of the component.
            top_k: number of passages; None for that of the component.
        """
        changed = {"filter": filters, "top_k": top_k}
        given = {name: value for name, value in changed.items() if value is not None}
        hits = self.store.find(query, Search(**(vars(self.search) | given)))
        documents = [
            HaystackDocument(
                id=hit.passage.id,
                content=hit.passage.text,
                meta=hit_metadata(hit),
                score=hit.score,
            )
            for hit in hits
        ]
        return {"documents": documents}


@component
class GritLMAnswerGenerator:
    """Answers questions from the stored key/value state of passages.

    Args:
        store: a RagEngine, or a RagClient for documents on a server, which searches itself.
        options: settings of search, prompt and sampling; None for the defaults.
        streaming_callback: function that gets each piece of an answer.
    """

    def __init__(
        self,
        store: PassageStore,
        options: AnswerOptions | None = None,
        streaming_callback: StreamingCallbackT | None = None,
    ) -> None:
        require_store(store)
        self.store = store
        self.options = AnswerOptions() if options is None else options
        self.streaming_callback = streaming_callback

    def to_dict(self) -> dict[str, Any]:
        """Return the component for a saved pipeline."""
        callback = self.streaming_callback
        return default_to_dict(
            self,
            store=saved_store(self.store),
            options=saved_options(self.options),
            streaming_callback=None if callback is None else serialize_callable(callback),
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> GritLMAnswerGenerator:
        """Return the component of a saved pipeline."""
        settings = data["init_parameters"]
        settings["store"] = restored_store(settings["store"])
        settings["options"] = restored_options(settings["options"])
        if settings["streaming_callback"]:
            settings["streaming_callback"] = deserialize_callable(settings["streaming_callback"])
        return default_from_dict(cls, data)

    @component.output_types(answers=list[GeneratedAnswer])
    def run(self, query: str, documents: list[HaystackDocument] | None = None) -> dict[str, Any]:
        """Return the answer as the only one of ``answers``; its ``meta`` has the trace.

        Args:
            query: the question.
            documents: passages of a retriever, the best first; None searches.
        """
        hits = None
        if documents is not None:
            hits = [
                hit_of(
                    document.content or "",
                    document.meta | {"score": document.score},
                    id=document.id,
                    rank=rank,
                )
                for rank, document in enumerate(documents, start=1)
            ]
        stream = self.store.stream(query, self.options, hits=hits)
        source = ComponentInfo.from_component(self)
        for piece in stream:
            if self.streaming_callback is not None:
                self.streaming_callback(StreamingChunk(piece, component_info=source, index=0))
        answer = stream.answer
        read = [
            HaystackDocument(
                id=each.id, content=each.text, meta=source_metadata(each), score=each.score
            )
            for each in answer.sources
        ]
        meta = {"trace": dict(answer.trace.as_dict())}
        return {"answers": [GeneratedAnswer(answer.text, query, read, meta)]}
