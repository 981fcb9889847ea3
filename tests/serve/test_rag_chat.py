"""Chats that are answered from documents, by OpenAI's client."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import openai
import pytest

from gritlm import GritLM
from gritlm.serve.config import ServerConfig
from gritlm.serve.documents.rag_chat import search_text
from tests import tiny
from tests.serve.conftest import TEXTS, ModelSettings, Served, StoreAt, served

QUESTION = "What colour is the ball?"
USER = {"role": "user", "content": QUESTION}
RAG = "tiny:rag"
PAINT = {
    "type": "function",
    "function": {
        "name": "paint",
        "parameters": {
            "type": "object",
            "properties": {"colour": {"enum": ["red", "blue"]}},
            "required": ["colour"],
        },
    },
}


def test_names_with_documents_are_listed_and_can_be_got(live: Served):
    names = [model.id for model in live.openai.models.list()]
    assert names == ["tiny", "small", "tiny:rag", "small:rag"]
    assert live.openai.models.retrieve("small:rag").id == "small:rag"


@pytest.mark.parametrize("options", [{}, {"top_k": 2, "fusion": "joint"}])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_single_question_is_answered_as_without_a_chat(live: Served, options, streamed):
    asked = live.http.post("/v1/rag/answer", json={"question": QUESTION, **options})
    body = {"extra_body": {"rag": options}} if options else {}
    chat = live.openai.chat.completions
    wanted = asked.raise_for_status().json()
    if streamed:
        events = list(chat.create(model=RAG, messages=[USER], stream=True, **body))
        text = "".join(each.choices[0].delta.content or "" for each in events)
        last = events[-1]
        annotations, rag = last.choices[0].delta.annotations, last.rag
        assert last.choices[0].finish_reason == wanted["finish_reason"]
        assert all("annotations" not in each.choices[0].delta.model_extra for each in events[:-1])
    else:
        found = chat.create(model=RAG, messages=[USER], **body)
        text = found.choices[0].message.content
        annotations = [each.model_dump() for each in found.choices[0].message.annotations]
        rag = found.rag
        assert found.model == RAG
        assert found.usage.completion_tokens == wanted["usage"]["completion_tokens"]
        assert found.usage.prompt_tokens == wanted["usage"]["prompt_tokens"]
    assert text == wanted["answer"]
    assert rag["sources"] == wanted["sources"]
    assert rag["query"] == QUESTION
    assert rag["trace"]["fusion"] == wanted["trace"]["fusion"]
    used = [source for source in wanted["sources"] if source["used"]]
    assert len(annotations) == len(used) > 0
    for annotation, source in zip(annotations, used, strict=True):
        assert annotation["type"] == "url_citation"
        assert annotation["url_citation"] == {
            "url": f"document:{source['document_id']}",
            "title": source["document_id"],
            "start_index": 0,
            "end_index": len(text),
            "content": source["text"],
        }


@pytest.mark.parametrize("filter", [{"x": 1}, {"a'b": 1}])
def test_a_filter_is_refused_as_without_a_chat(live: Served, filter):
    asked = live.http.post("/v1/rag/answer", json={"question": QUESTION, "filter": filter})
    chat = {"messages": [USER], "rag": {"filter": filter}}
    found = live.http.post("/v1/chat/completions", json=chat)
    assert found.status_code == asked.status_code == 400
    assert found.json() == asked.json()


def test_a_follow_up_is_searched_with_the_turns_before_it(live: Served):
    before = [
        {"role": "user", "content": "Tell me about cats."},
        {"role": "assistant", "content": "Cats sleep most of the day."},
    ]
    found = live.openai.chat.completions.create(
        model="tiny",
        messages=[{"role": "system", "content": "Be brief."}, *before, USER],
        extra_body={"rag": {}},
        max_tokens=4,
    )
    asked = live.http.post(
        "/v1/rag/answer", json={"question": f"Be brief.\n\n{QUESTION}", "max_tokens": 4}
    ).json()
    sizes = [part["tokens"] for part in asked["trace"]["parts"] if part["part"] == "question"]
    parts = found.rag["trace"]["parts"]
    assert [part["tokens"] for part in parts if part["part"] == "question"] == sizes
    assert found.model == "tiny"
    assert found.rag["query"] == f"Tell me about cats.\nCats sleep most of the day.\n{QUESTION}"
    assert found.usage.completion_tokens <= 4


def test_a_conversation_that_does_not_fit_the_model_is_left_out_of_the_search(live: Served):
    before = {"role": "user", "content": "x7" * 499}
    found = live.openai.chat.completions.create(
        model=RAG, messages=[before, {"role": "assistant", "content": "."}, USER], max_tokens=1
    )
    assert found.rag["query"] == QUESTION


def test_only_the_end_of_a_long_conversation_is_searched_with():
    assert search_text(["a" * 600, "b" * 600, "c" * 400, "d" * 5000]) == "\n".join(
        ["b" * 600, "c" * 400, "d" * 5000]
    )
    assert search_text(["a" * 1001, "b"]) == "b"
    assert search_text(["a"]) == "a"


def test_usage_comes_last_in_a_stream_that_asks_for_it(live: Served):
    events = list(
        live.openai.chat.completions.create(
            model=RAG,
            messages=[USER],
            stream=True,
            max_tokens=3,
            stream_options={"include_usage": True},
        )
    )
    assert events[-1].choices == []
    assert events[-1].usage.completion_tokens <= 3
    assert events[-2].choices[0].delta.annotations


def test_an_answer_from_documents_may_follow_a_format(live: Served):
    schema = {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}}
    schema |= {"required": ["colour"], "additionalProperties": False}
    format = {"type": "json_schema", "json_schema": {"name": "ball", "schema": schema}}
    found = live.openai.chat.completions.create(
        model=RAG, messages=[USER], response_format=format, max_tokens=40
    )
    assert json.loads(found.choices[0].message.content)["colour"] in ("red", "blue")
    assert found.choices[0].message.annotations


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with documents, whose model has room for tools."""
    folder = tmp_path_factory.mktemp("roomy")
    made = tiny.folder(folder / "model", max_position_embeddings=4096)
    ModelSettings(max_length=4096).save(made)
    model = GritLM(made, dtype="float32", device="cpu")
    settings = ServerConfig(port=0, names=("tiny",))
    with served(model, settings, None, StoreAt(folder / "store")) as found:
        documents = [{"id": name, "text": text} for name, text in TEXTS.items()]
        found.http.post("/v1/rag/documents", json={"documents": documents}).raise_for_status()
        yield found


def test_an_answer_from_documents_may_call_tools(roomy: Served):
    chat = roomy.openai.chat.completions
    options = {"model": RAG, "tools": [PAINT], "parallel_tool_calls": False, "max_tokens": 80}
    plain = chat.create(model=RAG, messages=[USER], max_tokens=1)
    found = chat.create(messages=[USER], tool_choice="required", **options)
    (choice,) = found.choices
    (call,) = choice.message.tool_calls
    assert choice.finish_reason == "tool_calls"
    assert json.loads(call.function.arguments)["colour"] in ("red", "blue")
    assert choice.message.content is None
    assert choice.message.annotations
    assert all(each.url_citation.end_index == 0 for each in choice.message.annotations)
    assert found.usage.prompt_tokens > plain.usage.prompt_tokens
    result = {"role": "tool", "tool_call_id": call.id, "content": "painted"}
    again = chat.create(messages=[USER, choice.message, result], **options)
    assert again.rag["query"] == QUESTION
    assert again.usage.prompt_tokens > found.usage.prompt_tokens
    events = list(chat.create(messages=[USER], tool_choice="required", stream=True, **options))
    deltas = [each.choices[0].delta for each in events if each.choices]
    pieces = [piece for delta in deltas for piece in delta.tool_calls or []]
    assert pieces[0].function.name == "paint"
    assert "".join(each.function.arguments for each in pieces) == call.function.arguments
    assert deltas[-1].annotations


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"tools": [PAINT], "extra_body": {"rag": {"mode": "query"}}}, "tools"),
        (
            {"messages": [USER, {"role": "tool", "tool_call_id": "c", "content": "4"}]},
            "messages[1]",
        ),
        ({"messages": [USER, {"role": "assistant", "content": "Red."}]}, "messages"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages"),
        ({"extra_body": {"rag": {"mode": "all"}}}, "rag.mode"),
        ({"extra_body": {"rag": {"colour": 1}}}, "rag.colour"),
    ],
)
def test_what_an_answer_from_documents_does_not_have_is_refused(live: Served, more, param):
    with pytest.raises(openai.BadRequestError) as caught:
        live.openai.chat.completions.create(**({"model": RAG, "messages": [USER]} | more))
    assert caught.value.param.startswith(param)


@pytest.mark.parametrize("given", [{"model": "gritlm:rag"}, {"extra_body": {"rag": {}}}])
def test_a_server_without_documents_says_so(serve: Callable[..., Served], given):
    bare = serve(ServerConfig(port=0))
    with pytest.raises(openai.NotFoundError, match="no store of documents") as caught:
        bare.openai.chat.completions.create(**({"model": "gritlm", "messages": [USER]} | given))
    assert caught.value.code == "no_store"
    assert [model.id for model in bare.openai.models.list()] == ["gritlm"]
    with pytest.raises(openai.NotFoundError):
        bare.openai.models.retrieve("gritlm:rag")


def test_a_served_name_that_ends_like_that_is_a_plain_one(grit: GritLM, serve):
    plain = serve(ServerConfig(port=0, names=("mine:rag",)))
    found = plain.openai.chat.completions.create(model="mine:rag", messages=[USER], max_tokens=1)
    assert found.choices[0].message.annotations is None


def test_other_routes_do_not_have_these_names(live: Served):
    with pytest.raises(openai.NotFoundError, match="small:rag"):
        live.openai.embeddings.create(model=RAG, input=TEXTS["cats"])
