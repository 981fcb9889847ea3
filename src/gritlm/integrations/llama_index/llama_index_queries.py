"""A retriever and a query engine over the documents of an engine or a server, for LlamaIndex."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Unpack

from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.response.schema import RESPONSE_TYPE, Response, StreamingResponse
from llama_index.core.prompts.mixin import PromptMixinType
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from gritlm.integrations.stores import (
    PassageStore,
    hit_metadata,
    hit_of,
    require_store,
    source_metadata,
)
from gritlm.rag.options import AnswerOptions, AnswerOverrides, override
from gritlm.rag.retrieve import Search
from gritlm.rag.types import Hit


class GritLMIndexRetriever(BaseRetriever):
    """Passages for a question, each with the id under which its key/value state is stored.

    Args:
        store: a RagEngine, or a RagClient for documents on a server.
        search: settings of the search; None for three passages by vectors.
    """

    def __init__(self, store: PassageStore, search: Search | None = None) -> None:
        require_store(store)
        super().__init__()
        self._store = store
        self._search = Search() if search is None else search

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        hits = self._store.find(query_bundle.query_str, self._search)
        return [_node(hit.passage.id, hit.passage.text, hit_metadata(hit)) for hit in hits]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)


class GritLMQueryEngine(BaseQueryEngine):
    """Answers from the stored key/value state of passages.

    ``source_nodes`` of a response are the passages that were read; ``metadata["used"]`` of a node
    marks those that the answer comes from. The response's ``metadata`` is the trace.

    Args:
        store: a RagEngine, or a RagClient for documents on a server.
        options: settings of search, prompt and sampling; None for the defaults.
        streaming: whether responses have their text in pieces, in ``response_gen``.
        overrides: single fields of the options; ``max_new_tokens`` of their ``sampling``.
    """

    def __init__(
        self,
        store: PassageStore,
        options: AnswerOptions | None = None,
        *,
        streaming: bool = False,
        **overrides: Unpack[AnswerOverrides],
    ) -> None:
        require_store(store)
        super().__init__(callback_manager=None)
        self._store = store
        self._streaming = streaming
        self._options = override(options, overrides)

    def retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        """Return the passages for a question."""
        return GritLMIndexRetriever(self._store, self._options.search).retrieve(query_bundle)

    def synthesize(
        self,
        query_bundle: QueryBundle,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
    ) -> RESPONSE_TYPE:
        """Return an answer from passages of :meth:`retrieve`, perhaps filtered or reordered."""
        hits = [
            hit_of(
                each.node.get_content(),
                each.node.metadata | {"score": each.score},
                id=each.node.node_id,
                rank=rank,
            )
            for rank, each in enumerate([*nodes, *(additional_source_nodes or ())], start=1)
        ]
        return self._response(query_bundle.query_str, hits)

    async def asynthesize(
        self,
        query_bundle: QueryBundle,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
    ) -> RESPONSE_TYPE:
        """Return an answer as :meth:`synthesize` does, computed in a thread."""
        return await asyncio.to_thread(
            self.synthesize, query_bundle, nodes, additional_source_nodes
        )

    def _query(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        return self._response(query_bundle.query_str, None)

    async def _aquery(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        return await asyncio.to_thread(self._query, query_bundle)

    def _get_prompt_modules(self) -> PromptMixinType:
        return {}

    def _response(self, question: str, hits: list[Hit] | None) -> RESPONSE_TYPE:
        stream = self._store.stream(question, self._options, hits=hits)
        sources = [_node(each.id, each.text, source_metadata(each)) for each in stream.sources]
        if self._streaming:
            return StreamingResponse(iter(stream), source_nodes=sources)  # type: ignore[arg-type]
        answer = stream.whole()
        return Response(answer.text, sources, dict(answer.trace.as_dict()))


def _node(id: str, text: str, metadata: dict[str, Any]) -> NodeWithScore:
    """Return a node with its metadata, which is not part of prompts, and its cosine."""
    node = TextNode(
        id_=id,
        text=text,
        metadata=metadata,
        start_char_idx=metadata["start"],
        end_char_idx=metadata["end"],
        excluded_embed_metadata_keys=list(metadata),
        excluded_llm_metadata_keys=list(metadata),
    )
    return NodeWithScore(node=node, score=metadata["score"])
