"""LangChain: adapters in process and over HTTP; the standard tests are in ``standard``."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

pytest.importorskip("langchain_core")

from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore

from gritlm.errors import InputError, UnknownArgumentError
from gritlm.integrations.langchain import (
    ChatGritLM,
    GritLMEmbeddings,
    GritLMRetriever,
    cached_answers,
)
from gritlm.rag import RagEngine
from tests.pdfs import lines_pdf
from tests.rag.conftest import QUESTION, TEXTS


def test_vectors_are_those_of_the_model(grit):
    embeddings = GritLMEmbeddings(grit, query_instruction="Find the passage")
    documents = np.array(embeddings.embed_documents(list(TEXTS)))
    np.testing.assert_allclose(documents, grit.encode_document(list(TEXTS)), atol=1e-6)
    query = embeddings.embed_query(QUESTION)
    plain = GritLMEmbeddings(grit).embed_query(QUESTION)
    assert np.abs(np.array(query) - plain).max() > 0.01
    np.testing.assert_allclose(plain, grit.encode_query(QUESTION), atol=1e-6)
    assert embeddings.embed_documents([]) == []
    assert len(GritLMEmbeddings(grit, truncate_dim=8).embed_query(QUESTION)) == 8


def test_a_vector_store_finds_by_them(grit):
    store = InMemoryVectorStore.from_texts(list(TEXTS), GritLMEmbeddings(grit))
    assert store.similarity_search(TEXTS[3], k=1)[0].page_content == TEXTS[3]


def test_a_chat_is_that_of_the_model_and_counts_its_tokens(grit):
    turns = [SystemMessage("Be brief."), HumanMessage([{"type": "text", "text": QUESTION}])]
    answer = ChatGritLM(model=grit, max_tokens=12).invoke(turns)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": QUESTION},
    ]
    assert answer.text == grit.chat(messages, max_new_tokens=12)
    assert answer.usage_metadata["input_tokens"] == len(grit.chat_ids(messages))
    assert answer.usage_metadata["output_tokens"] == 12
    assert answer.response_metadata["finish_reason"] == "length"


def test_settings_of_a_call_replace_those_of_the_model(grit):
    chat = ChatGritLM(model=grit, max_tokens=12)
    text = chat.invoke(QUESTION).text
    assert chat.invoke(QUESTION, max_tokens=3).usage_metadata["output_tokens"] == 3
    stop = text[4:6]
    cut = chat.invoke(QUESTION, stop=[stop])
    assert cut.text == text[: text.index(stop)]
    assert cut.response_metadata["finish_reason"] == "stop"
    warm = {"temperature": 1.5, "seed": 3}
    assert chat.invoke(QUESTION, **warm).text == chat.bind(**warm).invoke(QUESTION).text != text


def test_concurrent_chats_are_those_of_single_ones(grit):
    chat = ChatGritLM(model=grit, max_tokens=12)
    asked = [f"{QUESTION} {n}" for n in range(6)]
    assert [each.text for each in chat.batch(asked)] == [chat.invoke(each).text for each in asked]


def test_what_a_chat_does_not_have_is_refused(grit):
    chat = ChatGritLM(model=grit)
    with pytest.raises(UnknownArgumentError, match=r"'top_pp'; did you mean 'top_p'\?"):
        chat.invoke(QUESTION, top_pp=0.5)
    with pytest.raises(ValueError, match="max_token"):
        ChatGritLM(model=grit, max_token=5)
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    with pytest.raises(InputError, match="message 0 has a part of type 'image_url'"):
        chat.invoke([HumanMessage([image])])
    call = {"name": "add", "args": {}, "id": "1"}
    with pytest.raises(InputError, match="message 1 is of type 'ai' or calls tools"):
        chat.invoke(
            [
                HumanMessage("hi"),
                AIMessage("", tool_calls=[call]),
                ToolMessage("3", tool_call_id="1"),
            ]
        )


def test_a_chain_of_prompt_chat_and_parser_streams(grit):
    prompt = ChatPromptTemplate.from_messages([("user", "{question}")])
    chain = prompt | ChatGritLM(model=grit, max_tokens=12) | StrOutputParser()
    pieces = list(chain.stream({"question": QUESTION}))
    assert len(pieces) > 1
    assert "".join(pieces) == grit.chat(QUESTION, max_new_tokens=12)


@pytest.mark.parametrize("kind", ["engine", "client"])
def test_a_retriever_finds_passages_with_their_metadata(kind, engine, request):
    retriever = GritLMRetriever(store=request.getfixturevalue(kind), k=2, filter={"even": True})
    found = retriever.invoke(QUESTION)
    hits = engine.retrieve(QUESTION, top_k=2, filter={"even": True})
    assert [each.id for each in found] == [hit.passage.id for hit in hits]
    assert found[0].page_content == hits[0].passage.text
    assert found[0].metadata["even"] is True
    assert found[0].metadata["document_id"] == hits[0].passage.document_id
    assert found[0].metadata["score"] == pytest.approx(hits[0].score, abs=1e-5)


def test_passages_of_a_pdf_are_added_again_and_keep_their_page(grit, tmp_path):
    words = ("fox", "owl", "elk")
    pages = [f"Chapter {word}\n" + f"The {word} is {word}. " * 40 for word in words]
    (tmp_path / "animals.pdf").write_bytes(lines_pdf(pages))
    with RagEngine.open(tmp_path / "store", grit) as opened:
        opened.add([tmp_path / "animals.pdf"])
        found = GritLMRetriever(store=opened, k=20).invoke("owl")
        assert {each.metadata["page"] for each in found} == {1, 2, 3}
        assert [
            name for each in found for name in each.metadata if name.startswith("gritlm.")
        ] == []
        answers = cached_answers(opened, max_new_tokens=2)
        done = answers.invoke({"question": "owl", "documents": found[:1]})
        assert done["documents"][0].metadata["page"] == found[0].metadata["page"]
        added = opened.add(each.model_dump() for each in found)
        assert (added.documents, added.skipped) == (len(found), [])
        again = GritLMRetriever(store=opened, k=1, filter={"page": 2}).invoke("owl")
        assert again[0].metadata["page"] == 2


@pytest.mark.parametrize("kind", ["engine", "client"])
def test_answers_come_from_cached_state(kind, engine, request):
    answers = cached_answers(request.getfixturevalue(kind), max_new_tokens=12, top_k=2)
    done = answers.invoke(QUESTION)
    expected = engine.answer(QUESTION, max_new_tokens=12, top_k=2)
    assert done["answer"] == expected.text
    assert [each.id for each in done["documents"]] == [each.id for each in expected.sources]
    assert any(each.metadata["used"] for each in done["documents"])
    assert done["trace"]["tokens_reused"] == expected.trace.tokens_reused > 0
    chunks = list(answers.stream(QUESTION))
    assert list(chunks[0]) == ["documents"]
    assert "".join(chunk.get("answer", "") for chunk in chunks) == expected.text
    assert chunks[-1]["trace"]["tokens_generated"] == expected.trace.tokens_generated


def test_a_chain_answers_from_the_documents_that_it_kept(engine):
    retriever = GritLMRetriever(store=engine, k=5)
    last = RunnableLambda(lambda asked: asked["documents"][-1:])
    chain = (
        {"question": RunnablePassthrough(), "documents": retriever}
        | RunnablePassthrough.assign(documents=last)
        | cached_answers(engine, max_new_tokens=8)
    )
    done = chain.invoke(QUESTION)
    worst = retriever.invoke(QUESTION)[-1]
    assert [each.id for each in done["documents"]] == [worst.id]
    assert done["trace"]["tokens_computed"] == 0  # its state was stored
    assert done["trace"]["tokens_reused"] > 0


def test_a_document_from_elsewhere_is_read_once(engine):
    answers = cached_answers(engine, max_new_tokens=4)
    asked = {"question": QUESTION, "documents": [Document("Eve has a green ball.")]}
    first = answers.invoke(asked)
    assert first["trace"]["tokens_computed"] > 0
    again = answers.invoke(asked)
    assert again["trace"]["tokens_computed"] == 0
    assert again["answer"] == first["answer"]


@pytest.mark.parametrize(
    "metadata", [{"title": None, "score": "high", "start": None}, {"end": "x", "score": None}, {}]
)
def test_metadata_of_other_documents_is_not_trusted(metadata, engine):
    document = Document("Eve has a green ball.", metadata=metadata)
    asked = {"question": QUESTION, "documents": [document]}
    done = cached_answers(engine, max_new_tokens=4).invoke(asked)
    assert done["documents"][0].page_content == document.page_content


def test_answers_stream_asynchronously(engine):
    answers = cached_answers(engine, max_new_tokens=8)

    async def collected():
        return [chunk async for chunk in answers.astream(QUESTION)]

    chunks = asyncio.run(collected())
    text = "".join(chunk.get("answer", "") for chunk in chunks)
    assert text == answers.invoke(QUESTION)["answer"]


def test_other_inputs_and_stores_are_refused(engine):
    with pytest.raises(InputError, match="the input is dict without a question"):
        cached_answers(engine).invoke({"query": QUESTION})
    with pytest.raises(InputError, match="store is str; expected a RagEngine"):
        cached_answers("folder")
    with pytest.raises(ValueError, match="store is str; expected a RagEngine"):
        GritLMRetriever(store="folder")
