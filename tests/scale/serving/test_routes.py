"""The route of a request: conversation, store, writes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gritlm.scale.serving.routes import Route, route_of


def route(method: str, path: str, body: Any = None, *stores: str, query: str = "") -> Route:
    scope = {"method": method, "path": path, "query_string": query.encode()}
    return route_of(scope, b"" if body is None else json.dumps(body).encode(), stores)


def turns(*texts: str) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)]


SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/api/chat"])
def test_all_turns_of_a_conversation_have_one_route(path):
    first = route("POST", path, {"model": "m", "messages": [SYSTEM, *turns("a")]})
    later = route("POST", path, {"model": "m", "messages": [SYSTEM, *turns("a", "b", "c")]})
    other = route("POST", path, {"model": "m", "messages": [SYSTEM, *turns("d", "b", "c")]})
    assert first.conversation == later.conversation is not None
    assert other.conversation != first.conversation


def test_responses_and_prompts_have_a_conversation():
    for text in ("a", turns("a", "b", "c")):
        assert route("POST", "/v1/responses", {"input": text}).conversation
    long = "x" * 5000
    one = route("POST", "/v1/completions", {"prompt": long + "a"}).conversation
    assert one == route("POST", "/v1/completions", {"prompt": long + "b"}).conversation
    assert one != route("POST", "/v1/completions", {"prompt": "short"}).conversation


@pytest.mark.parametrize(
    ("method", "path", "body", "query", "expected"),
    [
        ("POST", "/v1/rag/documents", {"store": "law"}, "", Route(store="law", writes=True)),
        ("DELETE", "/v1/rag/documents/a", None, "store=law", Route(store="law", writes=True)),
        ("GET", "/v1/rag/documents", None, "store=food", Route(store="food")),
        ("POST", "/v1/rag/search", {"query": "q", "store": "food"}, "", Route(store="food")),
        ("POST", "/v1/rag/search", {"query": "q"}, "", Route()),
        ("POST", "/v1/rag/search", {"query": "q", "store": "none"}, "", Route()),
        ("POST", "/v1/chat/completions", {"model": "m:rag:law"}, "", Route(store="law")),
        ("POST", "/v1/embeddings", {"input": "a"}, "", Route()),
        ("GET", "/v1/models", None, "", Route()),
    ],
)
def test_requests_of_a_store_have_its_name(method, path, body, query, expected):
    assert route(method, path, body, "law", "food", query=query) == expected


def test_the_only_store_and_the_default_one_need_no_name():
    assert route("POST", "/v1/rag/search", {"query": "q"}, "law").store == "law"
    assert route("POST", "/v1/rag/search", {"query": "q"}, "law", "default").store == "default"
    chat = {"model": "m:rag", "messages": turns("a")}
    assert route("POST", "/v1/chat/completions", chat, "law") == Route(store="law")


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b'{"messages": 3}', b'{"messages": []}'])
def test_a_body_that_cannot_be_read_goes_anywhere(body):
    scope = {"method": "POST", "path": "/v1/chat/completions", "query_string": b""}
    found = route_of(scope, body, ())
    assert found.store is None
    assert not found.writes
