"""Fields without effect are taken and named in a header; a strict server refuses unknown ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gritlm.serve.config import ServerConfig
from gritlm.serve.schemas.base import MOST_NAMES
from gritlm.serve.schemas.chat_completions import ChatCompletionRequest
from gritlm.serve.schemas.completions import CompletionRequest
from gritlm.serve.schemas.embeddings import EmbeddingsRequest
from tests.serve.conftest import Served

CHAT, COMPLETE, EMBED = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
HEADER = "x-gritlm-ignored"
USER = {"role": "user", "content": "Hello"}
SHORT = {"messages": [USER], "max_tokens": 2}
HINTS = {
    "metadata": {"run": "7"},
    "store": True,
    "user": "ann",
    "reasoning_effort": "low",
    "service_tier": "flex",
    "cache_control": {"type": "ephemeral"},
    "safety_identifier": "a",
    "prompt_cache_key": "b",
    "prompt_cache_retention": "24h",
    "verbosity": "low",
    "prediction": {"type": "content", "content": "x"},
    "parallel_tool_calls": False,  # without tools
}
REQUESTS = [
    (CHAT, SHORT),
    (COMPLETE, {"prompt": "Hello", "max_tokens": 2}),
    (EMBED, {"input": "Hello"}),
    ("/v1/rerank", {"query": "a", "documents": ["b"]}),
    ("/tokenize", {"prompt": "Hello"}),
]


def ignored(live: Served, path: str, body: dict[str, Any]) -> list[str]:
    """The names in the header of a successful response."""
    response = live.http.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.headers[HEADER].split(", ")


def test_hints_have_no_effect_and_are_named(live: Served):
    plain = live.http.post(CHAT, json=SHORT | {"temperature": 0})
    assert HEADER not in plain.headers
    hinted = live.http.post(CHAT, json=SHORT | {"temperature": 0} | HINTS)
    assert hinted.json()["choices"] == plain.json()["choices"]
    assert hinted.headers[HEADER].split(", ") == list(HINTS)


def test_the_official_client_sends_them(live: Served):
    hints = {name: value for name, value in HINTS.items() if name != "cache_control"}
    raw = live.openai.chat.completions.with_raw_response.create(
        model="tiny",
        messages=[USER | {"name": "ann"}],
        max_tokens=2,
        **hints,
        extra_body={"chat_template_kwargs": {"enable_thinking": False}},
    )
    assert raw.parse().choices[0].finish_reason == "length"
    named = set(raw.headers[HEADER].split(", "))
    assert named == {*hints, "name", "chat_template_kwargs.enable_thinking"}


def test_every_field_of_the_official_client_is_known():
    """Each is a parameter, a hint or refused by name, so that none changes the answer unseen."""
    from openai.types import completion_create_params as completion
    from openai.types import embedding_create_params as embedding
    from openai.types.chat import completion_create_params as chat

    unknown = {"audio", "moderation", "web_search_options"}  # services that are not here
    for theirs, ours in (
        (chat.CompletionCreateParamsBase, ChatCompletionRequest),
        (completion.CompletionCreateParamsBase, CompletionRequest),
        (embedding.EmbeddingCreateParams, EmbeddingsRequest),
    ):
        assert set(theirs.__annotations__) - set(ours.model_fields) <= unknown


def test_hints_inside_of_messages_are_named_once(live: Served):
    part = {"type": "text", "text": "Hello", "cache_control": {"type": "ephemeral"}}
    messages = [{"role": "user", "content": [part, part], "name": "ann"}] * 2
    assert ignored(live, CHAT, SHORT | {"messages": messages}) == ["name", "cache_control"]


@pytest.mark.parametrize(("path", "body"), REQUESTS)
def test_unknown_fields_are_named_in_every_route(live: Served, path: str, body: dict[str, Any]):
    assert ignored(live, path, body | {"made_up": 1, "absent": None}) == ["made_up"]


def test_a_stream_names_them_too(live: Served):
    with live.http.stream("POST", CHAT, json=SHORT | {"stream": True, "made_up": 1}) as response:
        assert response.headers[HEADER] == "made_up"
        response.read()
    assert response.text.endswith("data: [DONE]\n\n")


def test_a_large_body_is_read_in_a_thread_and_names_them_too(live: Served):
    body = {"input": "Hello", "made_up": "x" * 100_000}
    assert ignored(live, EMBED, body) == ["made_up"]


def test_the_header_cannot_be_written_by_a_client(live: Served):
    names = {"a\r\nset-cookie: b": 1, "c, d": 2, "Größe": 3, "\x00\x1b": 4, "e" * 500: 5}
    response = live.http.post(CHAT, json=SHORT | names)
    assert "set-cookie" not in response.headers
    assert response.headers[HEADER].split(", ") == [
        "a%0D%0Aset-cookie%3A%20b",
        "c%2C%20d",
        "Gr%C3%B6%C3%9Fe",
        "%00%1B",
        "e" * 64 + "...",
    ]


def test_the_header_has_a_size(live: Served):
    many = {f"{'€' * 100}{number}": 1 for number in range(200)}
    named = ignored(live, CHAT, SHORT | many)
    assert len(named) == MOST_NAMES + 1
    assert named[-1] == "and-more"
    assert len(", ".join(named)) < 4096


@pytest.mark.parametrize(("path", "body"), REQUESTS)
def test_a_strict_server_refuses_unknown_fields(
    serve: Callable[..., Served], path: str, body: dict[str, Any]
):
    strict = serve(ServerConfig(port=0, strict=True))
    found = strict.http.post(path, json=body | {"made_up": 1})
    assert found.status_code == 400
    assert found.json()["error"]["code"] == "unknown_parameter"
    assert strict.http.post(path, json=body | {"made_up": None}).status_code == 200


def test_a_strict_server_takes_hints_and_says_so_in_its_schema(serve: Callable[..., Served]):
    strict = serve(ServerConfig(port=0, strict=True))
    assert ignored(strict, CHAT, SHORT | HINTS) == list(HINTS)
    schemas = strict.http.get("/openapi.json").json()["components"]["schemas"]
    assert schemas["ChatCompletionRequest"]["additionalProperties"] == {"type": "null"}


def test_the_own_api_refuses_unknown_fields_on_every_server(live: Served):
    found = live.http.post("/v1/rag/search", json={"question": "a", "topk": 3})
    assert found.json()["error"]["code"] == "unknown_parameter"
    schemas = live.http.get("/openapi.json").json()["components"]["schemas"]
    assert schemas["SearchRequest"]["additionalProperties"] == {"type": "null"}
    assert schemas["ChatCompletionRequest"]["additionalProperties"] is True


def test_fields_that_would_change_the_answer_are_refused_by_name(live: Served):
    for field in (
        {"chat_template": "{{ 1 }}"},
        {"continue_final_message": True},
        {"functions": [{"name": "look_up"}]},
        {"function_call": "auto"},
    ):
        error = live.http.post(CHAT, json=SHORT | field).json()["error"]
        assert (error["code"], error["param"]) == ("unsupported_value", *field)
