"""Haystack: adapters in process and over HTTP, in pipelines that are saved and loaded."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("haystack")

from haystack import Document, Pipeline
from haystack.components.builders import ChatPromptBuilder
from haystack.components.embedders import OpenAITextEmbedder
from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
from haystack.dataclasses import ChatMessage, ImageContent
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.utils import Secret

from gritlm import SamplingParams
from gritlm.errors import InputError, UnknownArgumentError
from gritlm.integrations import RagClient
from gritlm.integrations.haystack import (
    GritLMAnswerGenerator,
    GritLMChatGenerator,
    GritLMDocumentEmbedder,
    GritLMDocumentRetriever,
    GritLMTextEmbedder,
)
from gritlm.rag import AnswerOptions, Search
from tests.rag.conftest import QUESTION, TEXTS


def test_a_pipeline_of_embedders_finds_by_vectors_of_the_model(grit):
    documents = [Document(content=text, meta={"title": "Text"}) for text in TEXTS]
    embedded = GritLMDocumentEmbedder(grit).run(documents)["documents"]
    vectors = grit.encode_document([f"Text {text}" for text in TEXTS])
    np.testing.assert_allclose([each.embedding for each in embedded], vectors, atol=1e-6)
    store = InMemoryDocumentStore(embedding_similarity_function="cosine")
    store.write_documents(embedded)
    pipeline = Pipeline()
    pipeline.add_component("embedder", GritLMTextEmbedder(grit, instruction=""))
    pipeline.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=1))
    pipeline.connect("embedder.embedding", "retriever.query_embedding")
    found = pipeline.run({"embedder": {"text": f"Text {TEXTS[3]}"}})["retriever"]["documents"]
    assert found[0].content == TEXTS[3]


def test_a_chat_is_that_of_the_model_and_counts_its_tokens(grit):
    pieces = []
    generator = GritLMChatGenerator(grit, {"max_new_tokens": 12}, pieces.append)
    pipeline = Pipeline()
    pipeline.add_component("prompt", ChatPromptBuilder([ChatMessage.from_user("{{question}}")]))
    pipeline.add_component("chat", generator)
    pipeline.connect("prompt.prompt", "chat.messages")
    reply = pipeline.run({"question": QUESTION})["chat"]["replies"][0]
    assert reply.text == grit.chat(QUESTION, max_new_tokens=12)
    assert reply.meta["finish_reason"] == "length"
    assert reply.meta["usage"]["completion_tokens"] == 12
    assert "".join(piece.content for piece in pieces) == reply.text
    assert pieces[0].start
    assert pieces[-1].finish_reason == "length"
    short = generator.run([ChatMessage.from_user(QUESTION)], generation_kwargs={"stop": "a"})
    assert "a" not in short["replies"][0].text


def test_what_a_chat_does_not_have_is_refused(grit):
    with pytest.raises(UnknownArgumentError, match=r"the unknown name 'top_pp'; did you mean"):
        GritLMChatGenerator(grit, {"top_pp": 0.5})
    image = ChatMessage.from_user(
        content_parts=[ImageContent("AAAA", "image/png", validation=False)]
    )
    with pytest.raises(InputError, match="message 0 has a ImageContent; the model takes text"):
        GritLMChatGenerator(grit).run([image])
    with pytest.raises(InputError, match="has no content; the model embeds text"):
        GritLMDocumentEmbedder(grit).run([Document(content=None)])


@pytest.mark.parametrize("kind", ["engine", "client"])
def test_a_retriever_finds_passages_with_their_metadata(kind, engine, request):
    retriever = GritLMDocumentRetriever(request.getfixturevalue(kind), Search(top_k=4))
    found = retriever.run(QUESTION, filters={"even": True}, top_k=2)["documents"]
    hits = engine.retrieve(QUESTION, top_k=2, filter={"even": True})
    assert [each.id for each in found] == [hit.passage.id for hit in hits]
    assert found[0].meta["even"] is True
    assert len(retriever.run(QUESTION)["documents"]) == 4


def test_a_pipeline_answers_from_the_passages_of_a_retriever(engine):
    pipeline = Pipeline()
    pipeline.add_component("retriever", GritLMDocumentRetriever(engine, Search(top_k=2)))
    options = AnswerOptions(sampling=SamplingParams(max_new_tokens=12))
    pipeline.add_component("answer", GritLMAnswerGenerator(engine, options))
    pipeline.connect("retriever.documents", "answer.documents")
    done = pipeline.run({"retriever": {"query": QUESTION}, "answer": {"query": QUESTION}})
    answer = done["answer"]["answers"][0]
    assert answer.data == engine.answer(QUESTION, max_new_tokens=12, top_k=2).text
    assert answer.query == QUESTION
    assert answer.meta["trace"]["tokens_computed"] == 0
    assert answer.meta["trace"]["tokens_reused"] > 0
    assert any(each.meta["used"] for each in answer.documents)


def test_answers_over_http_are_those_of_the_engine(client, engine):
    pieces = []
    options = AnswerOptions(top_k=2, sampling=SamplingParams(max_new_tokens=12))
    answer = GritLMAnswerGenerator(client, options, pieces.append).run(QUESTION)["answers"][0]
    assert answer.data == engine.answer(QUESTION, options).text
    assert "".join(piece.content for piece in pieces) == answer.data


def test_a_saved_pipeline_holds_names_and_addresses(grit):
    client = RagClient("http://127.0.0.1:8123")
    sampling = SamplingParams(max_new_tokens=5, stop=("x",))
    pipeline = Pipeline()
    pipeline.add_component("embedder", GritLMTextEmbedder("base", "Find", 8))
    pipeline.add_component("documents", GritLMDocumentEmbedder("base", batch_size=3))
    pipeline.add_component("chat", GritLMChatGenerator("base", {"max_new_tokens": 5}))
    pipeline.add_component("retriever", GritLMDocumentRetriever(client, Search(top_k=4)))
    pipeline.add_component(
        "answer", GritLMAnswerGenerator(client, AnswerOptions(sampling=sampling))
    )
    loaded = Pipeline.loads(pipeline.dumps(), allowed_modules=["gritlm.integrations.*"])
    assert loaded.to_dict() == pipeline.to_dict()
    assert loaded.get_component("retriever").store == client
    assert loaded.get_component("retriever").search.top_k == 4
    assert loaded.get_component("answer").options.sampling == sampling


@pytest.mark.parametrize("kind", ["model", "engine", "key"])
def test_objects_and_keys_are_not_written_to_a_file(kind, grit, engine):
    made = {
        "model": lambda: GritLMTextEmbedder(grit),
        "engine": lambda: GritLMDocumentRetriever(engine),
        "key": lambda: GritLMDocumentRetriever(RagClient(api_key="secret")),
    }[kind]()
    with pytest.raises(InputError, match=r"not written to a\s+file") as refused:
        made.to_dict()
    assert "secret" not in str(refused.value)


def test_openai_components_of_haystack_work_with_the_server(client, grit):
    server = {"api_base_url": f"{client.base_url}/v1", "api_key": Secret.from_token("secret")}
    vector = OpenAITextEmbedder(model="gritlm", **server).run(QUESTION)["embedding"]
    np.testing.assert_allclose(vector, grit.encode_document([QUESTION])[0], atol=1e-4)
    settings = {"max_tokens": 12, "temperature": 0}
    chat = OpenAIChatGenerator(model="gritlm", generation_kwargs=settings, **server)
    reply = chat.run([ChatMessage.from_user(QUESTION)])["replies"][0]
    assert reply.text == grit.chat(QUESTION, max_new_tokens=12)
