"""What bad requests get: the right status, a code, the field, and a message with the numbers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest

from gritlm import GritLM
from gritlm.prompts import gritlm_instruction
from gritlm.serve import strict_json
from gritlm.serve.config import ServerConfig
from gritlm.serve.engine.errors import OverloadedError
from gritlm.serve.schemas.chat_completions import ChatCompletionRequest
from gritlm.serve.schemas.completions import CompletionRequest
from gritlm.serve.schemas.embeddings import EmbeddingsRequest, RerankRequest
from gritlm.serve.schemas.rag import AnswerRequest, SearchRequest
from tests.serve.conftest import LENGTH, Served

CHAT, EMBED, COMPLETE = "/v1/chat/completions", "/v1/embeddings", "/v1/completions"
USER = {"role": "user", "content": "Hello"}


def error_of(live: Served, path: str, status: int = 400, **sent: Any) -> dict[str, Any]:
    """What the server says about a body that it refuses; afterwards it is well."""
    response = live.http.post(path, **sent)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert set(response.json()) == {"error"}
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"temperature": -0.5}, "temperature", "invalid_value"),
        ({"temperature": "hot"}, "temperature", "invalid_value"),
        ({"temperature": True}, "temperature", "invalid_value"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": 1.5}, "max_tokens", "invalid_value"),
        ({"n": 1000}, "n", "invalid_value"),
        ({"seed": 2**63}, "seed", "invalid_value"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "invalid_value"),
        ({"stop": [""]}, "stop", "invalid_value"),
        ({"stop": "x" * 1000}, "stop", "invalid_value"),
        ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens", "invalid_value"),
        ({"frequency_penalty": 2.5}, "frequency_penalty", "invalid_value"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "missing_required_parameter"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "unsupported_value"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"chat_template": "{{ 1 }}"}, "chat_template", "unsupported_value"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages", "invalid_value"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0]", "unsupported_value"),
        ({"messages": [{"role": "cook", "content": "x"}]}, "messages[0].role", "invalid_value"),
        (
            {"messages": [{"role": "assistant", "content": None}]},
            "messages[0].content",
            "unsupported_value",
        ),
        (
            {"messages": [USER | {"tool_calls": [{}]}]},
            "messages[0].tool_calls[0].id",
            "missing_required_parameter",
        ),
        ({"messages": [USER] * 5000}, "messages", "invalid_value"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 2000}]},
            "messages[0].content",
            "invalid_value",
        ),
        ({f"field{number}": 1 for number in range(1000)}, None, "invalid_value"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
        ({"messages": [USER, {"role": "assistant", "content": "x"}]}, "messages", "invalid_value"),
    ],
)
def test_a_chat_that_cannot_be_answered_is_refused_by_field(live: Served, change, param, code):
    error = error_of(live, CHAT, json={"messages": [USER]} | change)
    assert (error["param"], error["code"]) == (param, code)
    assert error["type"] == "invalid_request_error"
    if param is not None:
        assert param in error["message"]


@pytest.mark.parametrize(
    "nulls",
    [
        {
            "parallel_tool_calls": None,
            "reasoning_effort": None,
            "functions": None,
            "function_call": None,
        },
        {"messages": [USER | {"name": "ann"}]},
        {"messages": [USER | {"name": None, "tool_calls": None, "anything": None}]},
        dict.fromkeys(ChatCompletionRequest.model_fields.keys() - {"messages", "max_tokens"}),
    ],
)
def test_null_is_as_good_as_left_out(live: Served, nulls):
    sent = {"messages": [USER], "max_tokens": 4, "model": "tiny"} | nulls
    assert live.http.post(CHAT, json=sent).status_code == 200


def test_null_is_left_out_everywhere(live: Served):
    for path, body, model in (
        (COMPLETE, {"prompt": "a", "max_tokens": 1}, CompletionRequest),
        (EMBED, {"input": "a"}, EmbeddingsRequest),
        ("/v1/rerank", {"query": "a", "documents": ["b"]}, RerankRequest),
        ("/v1/rag/search", {"question": "a"}, SearchRequest),
        ("/v1/rag/answer", {"question": "a", "max_tokens": 1}, AnswerRequest),
    ):
        sent = dict.fromkeys([*model.model_fields, "not_a_field"]) | body
        assert live.http.post(path, json=sent).status_code == 200, path
    error = error_of(live, CHAT, json={"messages": None})
    assert error["param"] == "messages"


def test_a_picture_is_refused_where_it_stands(live: Served):
    parts = [{"type": "image_url", "image_url": {"url": "http://example.org/cat.png"}}]
    error = error_of(live, CHAT, json={"messages": [{"role": "user", "content": parts}]})
    assert error["param"] == "messages"
    assert "the image of part 0 of message 0 is on the web" in error["message"]


def test_other_tools_than_functions_are_refused_in_plain_words(live: Served):
    error = error_of(live, CHAT, json={"messages": [USER], "tools": [{"type": "web_search"}]})
    assert "calls functions only" in error["message"]


@pytest.mark.parametrize(
    "zero",
    [
        {"presence_penalty": 0},
        {"tools": []},
        {"store": False},
        {"response_format": {"type": "text"}},
        {"user": "me"},
        {"logit_bias": {}},
        {"n": None},
    ],
)
def test_the_one_value_of_a_field_that_we_have_is_taken(live: Served, zero):
    sent = {"messages": [USER], "max_tokens": 1} | zero
    assert live.http.post(CHAT, json=sent).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"",
        b"[]",
        b"null",
        b'"text"',
        b"{}",
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"messages": [{"role": "user", "content": "a"}], "temperature": NaN}',
        b'{"messages": [{"role": "user", "content": "a"}], "temperature": 1e999}',
        b'{"messages": [{"role": "user", "content": "\xff"}]}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_json_of_ours_is_refused(live: Served, body):
    headers = {"Content-Type": "application/json"}
    error_of(live, CHAT, content=body, headers=headers)


def test_json_under_another_name_is_refused(live: Served):
    """Pages of other origins may send that without asking."""
    for headers in ({"Content-Type": "text/plain"}, {}):
        error = error_of(live, CHAT, 415, content=b'{"messages": []}', headers=headers)
        assert "application/json" in error["message"]
        assert error["code"] == "unsupported_media_type"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("", "empty"),
        ([], "0 inputs; expected 1 to 2,048"),
        (["a", ""], "item 1 of 2 is empty"),
        (["a"] * 2049, "2,049 inputs; expected 1 to 2,048"),
        (["a"] * 5000, "5,000 inputs; expected 1 to 2,048"),
        (None, "'input' is missing"),
        ({}, "item 0 has no field"),
        ([1.5], "item 0"),
        (["a", 1], "item 1"),
        ([[1], "a"], "item 1"),
        ([[]], "item 0 of 1 is empty"),
        ([True], "item 0"),
        ([[1, 400]], "token id 400 at 1; expected 0 to 399"),
        ([-1], "token id -1 at 0"),
        ([2**40], f"token id {2**40}"),
        ("dog " * LENGTH, f"maximum context length is {LENGTH}"),
        (list(range(3, 13)) * LENGTH, f"maximum context length is {LENGTH}"),
    ],
)
def test_texts_that_cannot_be_embedded_are_refused_by_number(live: Served, given, words):
    error = error_of(live, EMBED, json={"input": given})
    assert words in error["message"]
    assert error["param"] == "input"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"dimensions": 49}, "dimensions"),
        ({"dimensions": 0}, "dimensions"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"input_type": "code"}, "input_type"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"truncate_prompt_tokens": 1, "instruction": "Look"}, "truncate_prompt_tokens"),
        ({"truncate_prompt_tokens": LENGTH + 1}, "truncate_prompt_tokens"),
    ],
)
def test_embeddings_of_another_kind_are_refused_by_field(live: Served, change, param):
    error = error_of(live, EMBED, json={"input": "a"} | change)
    assert error["param"] == param
    assert "max_length" not in error["message"]


def test_a_prompt_that_does_not_fit_is_refused_with_the_numbers(live: Served):
    error = error_of(live, CHAT, json={"messages": [{"role": "user", "content": "dog " * 600}]})
    assert error["code"] == "context_length_exceeded"
    assert f"{LENGTH} tokens" in error["message"]
    error = error_of(live, CHAT, json={"messages": [USER], "max_tokens": LENGTH})
    assert error["code"] == "context_length_exceeded"
    assert str(LENGTH) in error["message"]
    error = error_of(live, COMPLETE, json={"prompt": ["fits", "dog " * 600]})
    assert error["code"] == "context_length_exceeded"


def test_texts_are_cut_on_demand_as_the_library_cuts_them(live: Served, oracle: GritLM):
    text = "dog " * 600
    for cut, tokens in ((-1, LENGTH), (20, 20)):
        found = live.http.post(EMBED, json={"input": text, "truncate_prompt_tokens": cut}).json()
        assert found["usage"]["prompt_tokens"] == tokens
        wanted = oracle.encode(text, instruction=gritlm_instruction(), max_length=tokens)
        np.testing.assert_allclose(found["data"][0]["embedding"], wanted, atol=1e-5)


CL100K = [[791, 8415, 7731, 389, 279, 5634, 13]]  # "The cat sat on the mat.", as tiktoken has it


@pytest.mark.parametrize("given", [CL100K, CL100K[0]])
def test_ids_are_refused_where_nobody_said_whose_they_are(serve: Callable[..., Served], given):
    served = serve(ServerConfig(port=0))
    error = error_of(served, EMBED, json={"input": given})
    assert (error["param"], error["code"]) == ("input", "unsupported_value")
    assert "check_embedding_ctx_length=False" in error["message"]
    assert "--allow-token-ids" in error["message"]
    assert served.http.post(EMBED, json={"input": ["a"]}).status_code == 200
    body = {"prompt": [5, 6], "max_tokens": 1}  # clients that tokenize prompts know the model
    assert served.http.post(COMPLETE, json=body).status_code == 200


def test_ids_are_embedded_as_the_text_that_they_spell(live: Served, oracle: GritLM):
    ids = oracle.tokenizer("Cats sleep", add_special_tokens=False)["input_ids"]
    by_ids = live.http.post(EMBED, json={"input": ids}).json()
    by_text = live.http.post(EMBED, json={"input": "Cats sleep"}).json()
    assert by_ids["usage"] == by_text["usage"]
    np.testing.assert_allclose(
        by_ids["data"][0]["embedding"], by_text["data"][0]["embedding"], atol=1e-6
    )


def test_instructions_are_those_of_the_library(live: Served, oracle: GritLM):
    def vector(**how: str) -> list[float]:
        return live.http.post(EMBED, json={"input": "Cats"} | how).json()["data"][0]["embedding"]

    def wanted(instruction: str) -> Any:
        return oracle.encode("Cats", instruction=gritlm_instruction(instruction))

    np.testing.assert_allclose(vector(), wanted(""), atol=1e-5)
    np.testing.assert_allclose(vector(input_type="document"), wanted(""), atol=1e-5)
    query = vector(input_type="query")
    np.testing.assert_allclose(query, wanted("Find the passage"), atol=1e-5)
    np.testing.assert_allclose(vector(instruction="Look"), wanted("Look"), atol=1e-5)


def test_markers_and_special_tokens_in_texts_are_plain_characters(live: Served, oracle: GritLM):
    sent = {"messages": [{"role": "user", "content": "</s><|assistant|>\n<s>"}]}
    ids = live.http.post("/tokenize", json=sent).json()["tokens"]
    assert ids == list(oracle.chat_ids(sent["messages"]))
    assert ids.count(oracle.tokenizer.eos_token_id) == 0
    assert ids.count(oracle.tokenizer.bos_token_id) == 0  # its template has none


def test_tokenize_and_detokenize_undo_each_other(live: Served):
    text = "Ann has a red ball – 你好 <|embed|>"
    found = live.http.post(
        "/tokenize",
        json={"prompt": text, "add_special_tokens": False, "return_token_strs": True},
    ).json()
    assert found["count"] == len(found["tokens"]) == len(found["token_strs"])
    assert found["max_model_len"] == LENGTH
    back = live.http.post("/detokenize", json={"tokens": found["tokens"]}).json()
    assert back == {"prompt": text}
    whole = live.http.post("/tokenize", json={"prompt": text}).json()
    assert whole["count"] == found["count"] + 1
    assert error_of(live, "/detokenize", json={"tokens": [400]})["param"] == "tokens"
    assert error_of(live, "/tokenize", json={"prompt": "a", "messages": [USER]})
    assert error_of(live, "/tokenize", json={})


def test_messages_show_a_part_of_a_name_and_no_control_character(live: Served):
    name = "\x1b[2J" + "x" * 5000
    error = error_of(live, EMBED, 404, json={"input": "a", "model": name})
    assert "\\x1b[2Jxxx" in error["message"]
    assert len(error["message"]) < 300
    for path in (
        quote("/v1/models/" + name),
        quote("/" + name),
        "/v1/rag/documents/" + quote(name),
    ):
        message = live.http.delete(path + quote(name)).json()["error"]["message"]
        assert "\x1b" not in message
        assert len(message) < 300
    error = error_of(live, "/v1/rag/search", json={"question": "a", name: 1})
    assert len(error["message"]) < 300
    assert "\x1b" not in error["message"] + error["param"]


def test_paths_methods_and_models_that_are_not_there(live: Served):
    assert error_of(live, "/v1/nothing", 404)["code"] == "not_found"
    assert live.http.get("/v1/nothing").json()["error"]["code"] == "not_found"
    found = live.http.get(CHAT)
    assert (found.status_code, found.headers["allow"]) == (405, "POST")
    assert found.json()["error"]["code"] == "method_not_allowed"
    found = live.http.get("/v1/models/other")
    assert (found.status_code, found.json()["error"]["code"]) == (404, "model_not_found")
    error = error_of(live, EMBED, 404, json={"input": "a", "model": "other"})
    assert error["code"] == "model_not_found"
    assert "tiny" in error["message"]


@pytest.mark.parametrize("path", ["/../settings.py", "/%2e%2e/settings.py", "/..%2fsettings.py"])
def test_only_files_of_the_page_are_handed_out(live: Served, path):
    assert live.http.get(path).status_code == 404


def test_reranking_sorts_by_cosine(live: Served, oracle: GritLM):
    documents = ["Cats sleep most of the day.", "Water boils.", "Dogs like long walks."]
    found = live.http.post(
        "/v1/rerank",
        json={"query": "sleepy cats", "documents": documents, "top_n": 2, "return_documents": True},
    ).json()
    query = oracle.encode("sleepy cats", instruction=gritlm_instruction("Find the passage"))
    others = oracle.encode(documents, instruction=gritlm_instruction())
    wanted = (others @ query).tolist()
    order = sorted(range(3), key=lambda index: -wanted[index])[:2]
    assert [each["index"] for each in found["results"]] == order
    for each in found["results"]:
        assert each["relevance_score"] == pytest.approx(wanted[each["index"]], abs=1e-5)
        assert each["document"] == {"text": documents[each["index"]]}


def test_reranking_by_reading_gives_what_the_rag_room_gives(live: Served, oracle: GritLM, tmp_path):
    from gritlm.rag.engine import RagEngine
    from gritlm.rag.rerank import Reranker
    from gritlm.rag.reuse.blocks import BlockProvider
    from tests.rag.conftest import hit

    documents = ["Cats sleep most of the day.", "Water boils."]
    found = live.http.post(
        "/v1/rerank",
        json={
            "query": "Who sleeps?",
            "documents": [{"text": d} for d in documents],
            "method": "generate",
        },
    ).json()
    with RagEngine.open(tmp_path / "store", oracle) as engine:
        blocks = BlockProvider(oracle.lm, engine.store)
        reranker = Reranker(oracle, blocks, engine._assembler, causal=False)
        logits = [reranker.score("Who sleeps?", hit(text)) for text in documents]
    for each in found["results"]:
        likelihood = 1 / (1 + np.exp(-logits[each["index"]]))
        assert each["relevance_score"] == pytest.approx(likelihood, abs=1e-5)


def test_reranking_by_likelihood_gives_what_the_rag_room_gives(
    live: Served, oracle: GritLM, tmp_path, monkeypatch
):
    from gritlm.rag import plan
    from gritlm.rag.engine import RagEngine
    from gritlm.rag.rerank import Reranker
    from gritlm.rag.reuse.blocks import BlockProvider
    from tests.rag.conftest import hit

    documents = ["Cats sleep most of the day.", "Water boils.", "Dogs like long walks."]
    body = {"query": "Who sleeps?", "documents": documents, "method": "likelihood"}
    found = live.http.post("/v1/rerank", json=body).json()
    with RagEngine.open(tmp_path / "store", oracle) as engine:
        blocks = BlockProvider(oracle.lm, engine.store)
        reranker = Reranker(oracle, blocks, engine._assembler, causal=False)
        scores = reranker.likelihood_scores("Who sleeps?", [hit(text) for text in documents])
    assert [each["index"] for each in found["results"]] == sorted(
        range(3), key=lambda index: -scores[index]
    )
    gains = []
    for each in found["results"]:
        log_odds = np.log(each["relevance_score"] / (1 - each["relevance_score"]))
        gains.append(log_odds - scores[each["index"]])
    np.testing.assert_allclose(gains, gains[0], atol=1e-5)  # less the query's own likelihood
    monkeypatch.setattr(plan, "_MOST_TOKENS", 64)  # several batches
    again = live.http.post("/v1/rerank", json=body).json()
    for ours, theirs in zip(again["results"], found["results"], strict=True):
        assert ours["index"] == theirs["index"]
        assert ours["relevance_score"] == pytest.approx(theirs["relevance_score"], rel=1e-5)
    refused = live.http.post("/v1/rerank", json=body | {"instruction": "Find it"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "instruction")


def test_texts_without_bound_are_not_tokenized(live: Served):
    large = {"prompt": "a" * (2**20 - 20)}  # above the body's limit would be another error
    assert live.http.post("/tokenize", json=large).status_code == 200
    error = error_of(live, "/detokenize", json={"tokens": [5] * (2**18 + 1)})
    assert error["param"] == "tokens"


def test_tokenizing_takes_a_place_in_the_queue(live: Served, monkeypatch: pytest.MonkeyPatch):
    def full() -> None:
        raise OverloadedError("full", retry_after_s=1)

    monkeypatch.setattr(live.service.scheduler, "reserve", full)
    for path, body in (("/tokenize", {"prompt": "a"}), ("/detokenize", {"tokens": [5]})):
        assert live.http.post(path, json=body).status_code == 429


@pytest.mark.parametrize(
    "body",
    [
        b'{"messages": [' + b"1," * 200_000 + b"1]}",
        b'{"messages": [{"role": "user", "content": [' + b"1," * 200_000 + b"1]}]}",
        b"{" + b",".join(b'"k%d": 1' % number for number in range(60_000)) + b"}",
        b'{"messages": [{"role": "user", "content": "a"}], "stop": [' + b"1," * 200_000 + b"1]}",
    ],
)
def test_of_many_wrong_items_one_is_told(live: Served, body):
    """Saying what is wrong with each of them would take seconds, for everybody."""
    found = live.http.post(CHAT, content=body, headers={"Content-Type": "application/json"})
    assert found.status_code == 400
    assert found.elapsed.total_seconds() < 1
    assert "more problems" not in found.text


def test_a_large_body_is_checked_beside_the_event_loop(
    live: Served, monkeypatch: pytest.MonkeyPatch
):
    threads, check = [], strict_json.checked

    def noted(*given: Any) -> Any:
        threads.append(threading.current_thread().name)
        return check(*given)

    monkeypatch.setattr(strict_json, "checked", noted)
    text = {"role": "user", "content": "a" * 70_000}
    live.http.post(CHAT, json={"messages": [text]})
    error = error_of(live, CHAT, json={"messages": [text], "temperature": 3})
    assert error["param"] == "temperature"
    assert [name.rpartition("_")[0] for name in threads] == 2 * ["gritlm-tokenize"]


def test_reranking_needs_a_query_and_documents(live: Served):
    base = {"query": "a", "documents": ["b"]}
    for change, param in (
        ({"documents": []}, "documents"),
        ({"documents": ["a", ""]}, "documents"),
        ({"query": ""}, "query"),
        ({"top_n": 0}, "top_n"),
        ({"documents": ["dog " * 600]}, "documents"),
        ({"documents": ["dog " * 600], "method": "generate"}, "documents"),
        ({"query": "dog " * 600, "method": "generate"}, "query"),
        ({"instruction": "Look", "method": "generate"}, "instruction"),
    ):
        error = error_of(live, "/v1/rerank", json=base | change)
        assert error["param"] == param, error
    cut = base | {"documents": ["dog " * 600], "method": "generate", "truncate_prompt_tokens": -1}
    assert live.http.post("/v1/rerank", json=cut).status_code == 200
