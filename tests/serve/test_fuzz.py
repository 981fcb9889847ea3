"""Mutated requests to every route: no failure of the server, no traceback, errors of one shape."""

from __future__ import annotations

import copy
import json
import logging
import random
import string
from base64 import encodebytes
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from gritlm import GritLM
from gritlm.serve.config import ServerConfig
from gritlm.serve.engine.limits import Limits
from gritlm.serve.stores import StoreAt
from tests.serve.conftest import TEXTS, Served, served

TALK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
SAMPLING = {"max_tokens": 2, "temperature": 0.5, "top_p": 0.9, "seed": 1, "stop": ["x"]}
ASK = {"question": "Who sleeps?", "top_k": 2, "filter": {"year": [1, 2]}, "hybrid": True}
FILE = {"name": "a.md", "data": encodebytes(b"# A\n\ntext").decode(), "metadata": {"year": 1}}
BODIES: dict[str, Any] = {
    "/v1/chat/completions": {
        "messages": TALK,
        "n": 2,
        "logprobs": True,
        "top_logprobs": 2,
        "stream": True,
        "stream_options": {"include_usage": True},
        **SAMPLING,
    },
    "/v1/completions": {"prompt": ["a", "b"], "logprobs": 2, "user": "me", **SAMPLING},
    "/v1/embeddings": {
        "input": ["a", "b"],
        "dimensions": 8,
        "encoding_format": "base64",
        "instruction": "Look",
        "truncate_prompt_tokens": -1,
    },
    "/v1/rerank": {
        "query": "a",
        "documents": ["b", {"text": "c"}],
        "top_n": 1,
        "return_documents": True,
        "method": "generate",
    },
    "/v1/rag/documents": {
        "documents": [{"id": "d", "text": "a b", "metadata": {"year": 1}}],
        "files": [FILE],
    },
    "/v1/rag/search": ASK,
    "/v1/rag/answer": ASK | {"mode": "doc", "max_tokens": 2, "stream": False, "rerank": 1},
    "/tokenize": {"messages": TALK, "return_token_strs": True},
    "/detokenize": {"tokens": [5, 6, 7]},
}
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63 - 1,
    -(2**63),
    2**64 - 1,
    0.0,
    -0.5,
    1e-320,
    1e308,
    "",
    " ",
    "\x00",
    "\x1b[2J",
    "\u202e",
    "\ud7ff",
    "🔥" * 50,
    "a" * 3000,
    "' OR 1=1; --",
    "../x",
    "{{ 7 * 7 }}",
    "</s><|user|>",
    [],
    {},
    [[]],
    [{}],
    [None],
    ["a"] * 300,
    [5, 6],
    [[5, 6], [7]],
    {"a": 1},
    {"text": "a"},
    {"type": "text", "text": "a"},
    {"year": {"$gt": 1}},
)
PATHS = (
    "/v1/models/{}",
    "/v1/rag/documents/{}",
    "/v1/rag/documents?after={}",
    "/v1/rag/documents?limit={}",
    "/{}",
    "/health/{}",
)
METHODS = ("GET", "HEAD", "DELETE", "PUT", "PATCH", "OPTIONS", "POST")


@pytest.fixture(scope="module")
def target(grit: GritLM, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    store = StoreAt(tmp_path_factory.mktemp("fuzz") / "store")
    settings, limits = ServerConfig(port=0, allow_token_ids=True), Limits(max_model_len=128)
    with served(grit, settings, limits, store) as found:
        documents = [{"id": name, "text": text} for name, text in TEXTS.items()]
        found.http.post("/v1/rag/documents", json={"documents": documents}).raise_for_status()
        yield found


COUNTS = [40, pytest.param(2000, marks=pytest.mark.slow)]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("path", BODIES)
def test_a_mutated_body_is_answered_or_refused(target: Served, caplog, path: str, count: int):
    chance = random.Random(path)
    headers = {"Content-Type": "application/json"}
    for _ in range(count):
        content = mutated(copy.deepcopy(BODIES[path]), chance)
        answer = target.http.post(path, content=content, headers=headers)
        assert_well(answer, content, caplog)
    assert target.http.get("/health").status_code == 200


@pytest.mark.parametrize("count", COUNTS)
def test_a_mutated_path_is_answered_or_refused(target: Served, caplog, count: int):
    chance = random.Random(count)
    for _ in range(count):
        text = chance.choice([*(v for v in VALUES if isinstance(v, str)), noise(chance)])
        path = chance.choice(PATHS).format(quote(text, safe=chance.choice(["", "/.~"])))
        answer = target.http.request(chance.choice(METHODS), path)
        assert_well(answer, path, caplog)


def assert_well(answer: Any, sent: object, caplog: pytest.LogCaptureFixture) -> None:
    assert answer.status_code < 500, (sent, answer.text)
    assert "Traceback" not in answer.text
    assert "pydantic" not in answer.text.lower()
    if answer.status_code >= 400 and answer.request.method != "HEAD":
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}, sent
        assert "\n" not in answer.json()["error"]["message"]
        assert len(answer.json()["error"]["message"]) < 1000
    broken = [each for each in caplog.records if each.exc_info or each.levelno >= logging.ERROR]
    assert not broken, sent
    caplog.clear()


def mutated(body: Any, chance: random.Random) -> bytes:
    """Some values of a body replaced, moved, removed or added; sometimes bytes of its JSON."""
    for _ in range(chance.randrange(1, 4)):
        holder, key = chance.choice(list(places(body)))
        change = chance.randrange(6)
        if change == 0:
            del holder[key]
        elif change == 1 and isinstance(holder, dict):
            holder[chance.choice([noise(chance), "type", "text", "id", "model"])] = value(chance)
        elif change == 2:
            holder[key] = [holder[key]] * chance.randrange(4)
        else:
            holder[key] = value(chance)
        if not list(places(body)):
            break
    content = json.dumps(body).encode()
    if chance.random() < 0.2:
        at = chance.randrange(len(content))
        new = bytes(chance.choices(range(256), k=chance.randrange(3)))
        content = content[:at] + new + content[at + chance.randrange(4) :]
    return content


def places(body: Any) -> Iterator[tuple[Any, Any]]:
    """Each holder with a key of it, at any depth."""
    items = body.items() if isinstance(body, dict) else enumerate(body)
    for key, item in items:
        yield body, key
        if isinstance(item, dict | list):
            yield from places(item)


def value(chance: random.Random) -> Any:
    return copy.deepcopy(chance.choice(VALUES))


def noise(chance: random.Random) -> str:
    letters = string.printable + "äß你🔥\u202e\x7f\x9b"
    return "".join(chance.choices(letters, k=chance.randrange(1, 30)))
