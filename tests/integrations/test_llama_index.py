"""LlamaIndex: adapters in process and over HTTP."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

pytest.importorskip("llama_index.core")

from llama_index.core import Document, Settings, VectorStoreIndex
from llama_index.core.postprocessor import SimilarityPostprocessor
from llama_index.core.schema import QueryBundle

from gritlm.errors import InputError
from gritlm.integrations.llama_index import (
    GritLMEmbedding,
    GritLMIndexRetriever,
    GritLMQueryEngine,
)
from gritlm.rag import Search
from tests.rag.conftest import QUESTION, TEXTS


def test_vectors_are_those_of_the_model(grit):
    embedding = GritLMEmbedding(grit, query_instruction="Find the passage")
    vectors = embedding.get_text_embedding_batch(list(TEXTS))
    np.testing.assert_allclose(vectors, grit.encode_document(list(TEXTS)), atol=1e-6)
    query = embedding.get_query_embedding(QUESTION)
    assert asyncio.run(embedding.aget_query_embedding(QUESTION)) == query
    plain = GritLMEmbedding(grit).get_query_embedding(QUESTION)
    np.testing.assert_allclose(plain, grit.encode_query(QUESTION), atol=1e-6)
    assert np.abs(np.array(query) - plain).max() > 0.01


def test_an_index_finds_by_them(grit, monkeypatch):
    monkeypatch.setattr(Settings, "_transformations", [])
    index = VectorStoreIndex.from_documents(
        [Document(text=text) for text in TEXTS],
        embed_model=GritLMEmbedding(grit),
        transformations=[],
    )
    found = index.as_retriever(similarity_top_k=1).retrieve(TEXTS[3])
    assert found[0].node.get_content() == TEXTS[3]


@pytest.mark.parametrize("kind", ["engine", "client"])
def test_a_retriever_finds_passages_with_their_metadata(kind, engine, request):
    search = Search(top_k=2, filter={"even": True})
    found = GritLMIndexRetriever(request.getfixturevalue(kind), search).retrieve(QUESTION)
    hits = engine.find(QUESTION, search)
    assert [each.node.node_id for each in found] == [hit.passage.id for hit in hits]
    assert [each.score for each in found] == pytest.approx([hit.score for hit in hits], abs=1e-5)
    assert found[0].node.metadata["even"] is True
    assert found[0].node.get_content(metadata_mode="llm") == hits[0].passage.text


@pytest.mark.parametrize("kind", ["engine", "client"])
def test_a_query_engine_answers_from_cached_state(kind, engine, request):
    store = request.getfixturevalue(kind)
    response = GritLMQueryEngine(store, max_new_tokens=12, top_k=2).query(QUESTION)
    expected = engine.answer(QUESTION, max_new_tokens=12, top_k=2)
    assert response.response == expected.text
    assert [each.node.node_id for each in response.source_nodes] == [
        each.id for each in expected.sources
    ]
    assert response.metadata["tokens_reused"] == expected.trace.tokens_reused > 0
    streamed = GritLMQueryEngine(store, streaming=True, max_new_tokens=12, top_k=2).query(QUESTION)
    pieces = list(streamed.response_gen)
    assert len(pieces) > 1
    assert "".join(pieces) == expected.text


def test_an_answer_from_the_nodes_that_a_postprocessor_kept(engine):
    queries = GritLMQueryEngine(engine, max_new_tokens=8, top_k=5)
    bundle = QueryBundle(QUESTION)
    nodes = queries.retrieve(bundle)
    cutoff = (nodes[0].score + nodes[1].score) / 2
    kept = SimilarityPostprocessor(similarity_cutoff=cutoff).postprocess_nodes(nodes)
    response = queries.synthesize(bundle, kept)
    assert [each.node.node_id for each in response.source_nodes] == [nodes[0].node.node_id]
    assert response.metadata["tokens_computed"] == 0
    assert asyncio.run(queries.asynthesize(bundle, kept)).response == response.response
    assert asyncio.run(queries.aquery(QUESTION)).response


def test_another_store_is_refused():
    with pytest.raises(InputError, match="store is str; expected a RagEngine"):
        GritLMQueryEngine("folder")
    with pytest.raises(InputError, match="store is str; expected a RagEngine"):
        GritLMIndexRetriever("folder")
