"""Clients of Anthropic, Ollama and OpenAI's Responses API on the routes of their servers."""

from __future__ import annotations

import json
from collections.abc import Iterator

import anthropic
import numpy as np
import ollama
import openai
import pytest

from gritlm import GritLM
from gritlm.prompts import gritlm_instruction
from gritlm.serve.config import ServerConfig
from gritlm.serve.stores import StoreAt
from tests import tiny
from tests.serve.conftest import LENGTH, TEXTS, ModelSettings, Served, served

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What colour is the ball?"},
]
QUESTION = TALK[1:]
GREEDY = {"temperature": 0}
COLOUR = {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}}
COLOUR |= {"required": ["colour"], "additionalProperties": False}


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> GritLM:
    """A model with room for the prompts of tools; the server has the same one."""
    folder = tiny.folder(tmp_path_factory.mktemp("roomy"), max_position_embeddings=4 * LENGTH)
    ModelSettings(query_instruction="Find the passage", max_length=LENGTH).save(folder)
    return GritLM(folder, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def live(oracle: GritLM, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with a store of ``TEXTS``."""
    model = GritLM(oracle.source, dtype="float32", device="cpu")
    store = StoreAt(tmp_path_factory.mktemp("store") / "documents")
    with served(model, ServerConfig(port=0, names=("tiny", "small")), None, store) as found:
        documents = [{"id": name, "text": text} for name, text in TEXTS.items()]
        found.http.post("/v1/rag/documents", json={"documents": documents}).raise_for_status()
        yield found


@pytest.fixture(scope="module")
def claude(live: Served) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(api_key="none", base_url=live.url, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def llama(live: Served) -> Iterator[ollama.Client]:
    with ollama.Client(live.url) as client:
        yield client


@pytest.fixture(scope="module")
def wanted(oracle: GritLM) -> str:
    return str(oracle.chat(TALK, max_new_tokens=20))


def test_anthropic_messages(live: Served, claude, wanted: str, oracle: GritLM):
    body = {"model": "tiny", "system": "Be brief.", "messages": QUESTION, "max_tokens": 20}
    found = claude.messages.create(**body, extra_body=GREEDY)
    assert [block.text for block in found.content] == [wanted]
    assert (found.role, found.model, found.stop_reason) == ("assistant", "tiny", "max_tokens")
    size = len(oracle.chat_ids(TALK))
    assert found.usage.input_tokens + found.usage.cache_read_input_tokens == size
    assert found.usage.output_tokens == 20
    with claude.messages.stream(**body, extra_body=GREEDY) as stream:
        text = "".join(stream.text_stream)
        last = stream.get_final_message()
    assert text == last.content[0].text == wanted
    assert last.stop_reason == "max_tokens"
    assert last.usage.output_tokens == 20
    assert last.usage.input_tokens + last.usage.cache_read_input_tokens == size
    counted = claude.messages.count_tokens(
        model="tiny", system=[{"type": "text", "text": "Be brief."}], messages=QUESTION
    )
    assert counted.input_tokens == size


def test_anthropic_stop_sequences_are_named(claude, wanted: str):
    stop = wanted[5:8]
    body = {"model": "tiny", "system": "Be brief.", "messages": QUESTION, "max_tokens": 20}
    body |= {"extra_body": GREEDY, "stop_sequences": ["never", stop]}
    found = claude.messages.create(**body)
    assert (found.stop_reason, found.stop_sequence) == ("stop_sequence", stop)
    assert found.content[0].text == wanted[: wanted.index(stop)]
    events = list(claude.messages.create(**body, stream=True))
    assert [event.type for event in events[:2]] == ["message_start", "content_block_start"]
    assert [event.type for event in events[-3:]] == [
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert events[-2].delta.stop_sequence == stop


@pytest.mark.parametrize("streamed", [False, True])
def test_anthropic_tools_are_called_and_answered(claude, streamed: bool):
    tool = {"name": "paint", "description": "Paint the ball.", "input_schema": COLOUR}
    body = {"model": "tiny", "messages": QUESTION, "max_tokens": 100, "tools": [tool]}
    body["extra_body"] = GREEDY
    body["tool_choice"] = {"type": "tool", "name": "paint", "disable_parallel_tool_use": True}
    if streamed:
        with claude.messages.stream(**body) as stream:
            found = stream.get_final_message()
    else:
        found = claude.messages.create(**body)
    assert found.stop_reason == "tool_use"
    call = found.content[-1]
    assert (call.type, call.name) == ("tool_use", "paint")
    assert call.input["colour"] in ("red", "blue")
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "Painted."}
    turns = [
        *QUESTION,
        {"role": "assistant", "content": [block.model_dump() for block in found.content]},
        {"role": "user", "content": [result, {"type": "text", "text": "And now?"}]},
    ]
    again = claude.messages.create(model="tiny", messages=turns, max_tokens=4, tools=[tool])
    assert again.usage.output_tokens <= 4
    turns[-1]["content"][0]["tool_use_id"] = "call_unknown"
    with pytest.raises(anthropic.BadRequestError, match="call_unknown"):
        claude.messages.create(model="tiny", messages=turns, max_tokens=4)


def test_anthropic_errors_have_its_types(live: Served, claude):
    body = {"messages": QUESTION, "max_tokens": 4}
    with pytest.raises(anthropic.NotFoundError) as caught:
        claude.messages.create(model="other", **body)
    assert caught.value.body["error"]["type"] == "not_found_error"
    assert caught.value.body["request_id"] == caught.value.response.headers["x-request-id"]
    image = {"type": "image", "source": {"type": "url", "url": "http://x/y.png"}}
    for wrong in ({"max_tokens": 0}, {"messages": [{"role": "user", "content": [image]}]}):
        with pytest.raises(anthropic.BadRequestError) as caught:
            claude.messages.create(**({"model": "tiny"} | body | wrong))
        assert caught.value.body["error"]["type"] == "invalid_request_error"


def test_anthropic_answers_from_documents(live: Served, claude):
    question = {"question": QUESTION[0]["content"], "max_tokens": 12}
    asked = live.http.post("/v1/rag/answer", json=question).json()
    body = {"model": "tiny:rag", "messages": QUESTION, "max_tokens": 12}
    found = claude.messages.create(**body)
    assert found.content[0].text == asked["answer"]
    assert found.rag["sources"] == asked["sources"]
    events = list(claude.messages.create(**body, stream=True))
    assert events[-2].rag["sources"] == asked["sources"]


def test_ollama_chats(llama: ollama.Client, wanted: str, oracle: GritLM):
    body = {"model": "tiny", "messages": TALK, "options": {"temperature": 0, "num_predict": 20}}
    found = llama.chat(**body)
    assert found.message.content == wanted
    assert (found.done, found.done_reason, found.eval_count) == (True, "length", 20)
    assert found.prompt_eval_count == len(oracle.chat_ids(TALK))
    *parts, last = llama.chat(**body, stream=True)
    assert "".join(part.message.content for part in parts) == wanted
    assert not any(part.done for part in parts)
    assert (last.done, last.done_reason, last.eval_count) == (True, "length", 20)
    assert last.total_duration >= last.prompt_eval_duration > 0
    body |= {"model": "tiny:latest", "options": {**body["options"], "stop": [wanted[5:8]]}}
    found = llama.chat(**body)
    assert found.message.content == wanted[: wanted.index(wanted[5:8])]
    assert (found.model, found.done_reason) == ("tiny", "stop")


def test_unknown_paths_have_the_errors_of_their_api(live: Served, llama: ollama.Client):
    with pytest.raises(ollama.ResponseError) as caught:
        llama.pull("gritlm")
    assert caught.value.error == "POST /api/pull: Not Found"
    assert caught.value.status_code == 404
    cohere = live.http.post("/v2/chat", json={})
    assert (cohere.status_code, set(cohere.json())) == (404, {"id", "message"})
    other = live.http.post("/v1/nothing", json={})
    assert other.json()["error"]["code"] == "not_found"


def test_ollama_generates(llama: ollama.Client, wanted: str):
    options = {"temperature": 0, "num_predict": 20}
    body = {"model": "tiny", "prompt": QUESTION[0]["content"], "system": "Be brief."}
    assert llama.generate(**body, options=options).response == wanted
    parts = llama.generate(**body, options=options, stream=True, keep_alive="5m", think=False)
    assert "".join(part.response for part in parts) == wanted
    assert llama.generate(model="tiny").done_reason == "load"
    assert llama.chat(model="tiny").done_reason == "load"
    schema = llama.generate(**body, options={"num_predict": 40}, format=COLOUR).response
    assert json.loads(schema)["colour"] in ("red", "blue")


@pytest.mark.parametrize("streamed", [False, True])
def test_ollama_tools_are_called_and_answered(live: Served, llama: ollama.Client, streamed: bool):
    tool = {"type": "function", "function": {"name": "paint", "parameters": COLOUR}}
    call = {"function": {"name": "paint", "arguments": {"colour": "red"}}}
    turns = [
        *QUESTION,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "Painted.", "tool_name": "paint"},
    ]
    options = {"num_predict": 8}
    found = llama.chat(model="tiny", messages=turns, tools=[tool], options=options, stream=streamed)
    last = list(found)[-1] if streamed else found
    assert last.eval_count <= 8
    with pytest.raises(ollama.ResponseError, match="call_1"):
        llama.chat(model="tiny", messages=[QUESTION[0], turns[-1]], options=options)


def test_ollama_calls_are_sent_as_a_whole():
    from gritlm.serve.dialects.ollama_events import OllamaDialect

    dialect = OllamaDialect("chat")
    head = {"model": "tiny"}
    first = {"index": 0, "id": "call_1", "function": {"name": "paint", "arguments": '{"colour'}}
    second = {"index": 0, "function": {"arguments": '": "red"}'}}
    for call in (first, second):
        choice = {"delta": {"tool_calls": [call]}, "finish_reason": None}
        assert dialect.frames({**head, "choices": [choice]}) == b""
    end = {"delta": {}, "finish_reason": "tool_calls"}
    assert dialect.frames({**head, "choices": [end]}) == b""
    usage = {"prompt_tokens": 1, "completion_tokens": 2}
    last = json.loads(dialect.frames({**head, "choices": [], "usage": usage}))
    assert last["message"]["tool_calls"] == [
        {"function": {"name": "paint", "arguments": {"colour": "red"}}}
    ]
    assert last["done_reason"] == "stop"


def test_ollama_embeds_and_describes(live: Served, llama: ollama.Client, oracle: GritLM):
    texts = list(TEXTS.values())
    wanted_nd = oracle.encode(texts, instruction=gritlm_instruction())
    found = llama.embed(model="tiny", input=texts)
    np.testing.assert_allclose(found.embeddings, wanted_nd, atol=1e-5)
    one = llama.embeddings(model="tiny", prompt=texts[0]).embedding
    np.testing.assert_allclose(one, wanted_nd[0], atol=1e-5)
    assert len(llama.embed(model="tiny", input=["word " * 9000]).embeddings) == 1
    with pytest.raises(ollama.ResponseError, match="maximum context length"):
        llama.embed(model="tiny", input=["word " * 9000], truncate=False)
    assert [model.model for model in llama.list().models] == [
        "tiny",
        "small",
        "tiny:rag",
        "small:rag",
    ]
    assert llama.ps().models[0].size > 0
    shown = llama.show("tiny:latest")
    assert shown.modelinfo["llama.embedding_length"] == oracle.embedding_dimension
    assert shown.capabilities == ["completion", "tools", "embedding"]
    assert live.http.get("/api/version").json()["version"]


def test_ollama_errors(live: Served, llama: ollama.Client):
    with pytest.raises(ollama.ResponseError, match="'other' does not exist") as caught:
        llama.chat(model="other", messages=TALK)
    assert caught.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="reads text only"):
        llama.generate(model="tiny", prompt="a", images=["aGVsbG8="])
    body = b'{"model": "tiny", "prompt": "a", "options": {"num_predict": 1}}'
    assert live.http.post("/api/generate", content=body).status_code == 200  # no Content-Type
    page = {"Origin": "https://evil.example"}
    assert live.http.post("/api/generate", content=body, headers=page).status_code == 403


def test_ollama_answers_from_documents(live: Served, llama: ollama.Client):
    question = {"question": QUESTION[0]["content"], "max_tokens": 12}
    asked = live.http.post("/v1/rag/answer", json=question).json()
    body = {"model": "tiny:rag", "messages": QUESTION, "options": {"num_predict": 12}}
    assert llama.chat(**body).message.content == asked["answer"]
    parts = llama.chat(**body, stream=True)
    assert "".join(part.message.content for part in parts) == asked["answer"]
    assert live.http.post("/api/chat", json=body | {"stream": False}).json()["rag"]["sources"]


def test_responses(live: Served, wanted: str, oracle: GritLM):
    responses = live.openai.responses
    body = {"model": "tiny", "instructions": "Be brief.", "max_output_tokens": 20}
    found = responses.create(**body, input=QUESTION[0]["content"], temperature=0)
    assert found.output_text == wanted
    assert found.status == "incomplete"
    assert found.incomplete_details.reason == "max_output_tokens"
    assert found.usage.input_tokens == len(oracle.chat_ids(TALK))
    assert found.usage.output_tokens == 20
    part = {"type": "input_text", "text": QUESTION[0]["content"]}
    turns = [{"role": "user", "content": [part]}]
    with responses.stream(**body, input=turns, temperature=0) as stream:
        events = list(stream)
    last = events[-1].response
    assert last.output_text == wanted
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    turns += [item.model_dump() for item in found.output] + turns
    again = responses.create(model="tiny", input=turns, max_output_tokens=2)
    assert again.usage.input_tokens > found.usage.input_tokens


@pytest.mark.parametrize("streamed", [False, True])
def test_responses_with_tools_and_formats(live: Served, streamed: bool):
    responses = live.openai.responses
    tool = {"type": "function", "name": "paint", "parameters": COLOUR, "strict": True}
    body = {"model": "tiny", "input": QUESTION, "tools": [tool], "max_output_tokens": 100}
    body["temperature"] = 0
    body["tool_choice"] = {"type": "function", "name": "paint"}
    body["parallel_tool_calls"] = False
    if streamed:
        with responses.stream(**body) as stream:
            events = list(stream)
        found = events[-1].response
    else:
        found = responses.create(**body)
    (call,) = found.output
    assert (call.type, call.name) == ("function_call", "paint")
    assert json.loads(call.arguments)["colour"] in ("red", "blue")
    turns = [
        *QUESTION,
        {
            "type": "function_call",
            "call_id": call.call_id,
            "name": call.name,
            "arguments": call.arguments,
        },
        {"type": "function_call_output", "call_id": call.call_id, "output": "Painted."},
    ]
    again = responses.create(model="tiny", input=turns, tools=[tool], max_output_tokens=4)
    assert again.usage.output_tokens <= 4
    format = {"type": "json_schema", "name": "ball", "schema": COLOUR, "strict": True}
    found = responses.create(
        model="tiny", input=QUESTION, max_output_tokens=40, text={"format": format}
    )
    assert json.loads(found.output_text)["colour"] in ("red", "blue")
    assert found.status == "completed"


def test_responses_from_documents(live: Served):
    question = {"question": QUESTION[0]["content"], "max_tokens": 12}
    asked = live.http.post("/v1/rag/answer", json=question).json()
    body = {"model": "tiny:rag", "input": QUESTION, "max_output_tokens": 12}
    found = live.openai.responses.create(**body)
    assert found.output_text == asked["answer"]
    (annotation, *_) = found.output[0].content[0].annotations
    assert annotation.type == "url_citation"
    assert annotation.url == f"document:{asked['sources'][0]['document_id']}"
    events = list(live.openai.responses.create(**body, stream=True))
    last = events[-1].response.output[0].content[0]
    assert last.annotations == found.output[0].content[0].annotations
    assert any(event.type == "response.output_text.annotation.added" for event in events)
    assert events[-1].response.rag["sources"] == asked["sources"]


def test_responses_are_not_kept(live: Served):
    with pytest.raises(openai.BadRequestError) as caught:
        live.openai.responses.create(model="tiny", input="a", previous_response_id="resp_1")
    assert caught.value.param == "previous_response_id"


def test_litellm_sends_messages_and_ollama_chats(live: Served, wanted: str, monkeypatch):
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import litellm
    from litellm.llms.custom_httpx.http_handler import HTTPHandler

    for provider in ("anthropic", "ollama_chat", "hosted_vllm", "openai"):
        path = "/v1" if provider in ("hosted_vllm", "openai") else ""
        client = live.openai if provider == "openai" else HTTPHandler(client=live.http)
        found = litellm.completion(
            model=f"{provider}/tiny",
            messages=TALK,
            temperature=0,
            max_tokens=20,
            api_base=f"{live.url}{path}",
            api_key="none",
            client=client,
        )
        assert found.choices[0].message.content == wanted, provider


def test_each_client_sends_its_key(grit: GritLM):
    with served(grit, ServerConfig(port=0, api_keys=("key",))) as locked:
        body = {"model": "gritlm", "messages": QUESTION, "max_tokens": 2}
        with anthropic.Anthropic(api_key="key", base_url=locked.url, max_retries=0) as client:
            assert client.messages.create(**body).usage.output_tokens <= 2
            other = client.with_options(api_key="no")
            with pytest.raises(anthropic.AuthenticationError) as caught:
                other.messages.create(**body)
            assert caught.value.body["error"]["type"] == "authentication_error"
        with ollama.Client(locked.url) as client, pytest.raises(ollama.ResponseError) as caught:
            client.list()
        assert caught.value.status_code == 401
        assert "API key" in caught.value.error
        headers = {"Authorization": "Bearer key"}
        with ollama.Client(locked.url, headers=headers) as client:
            assert client.list().models[0].model == "gritlm"
