"""A server with compiled steps under mixed traffic answers as one without them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gritlm import GritLM
from gritlm.lm.hub.model_config import ModelSettings
from gritlm.serve.config import ServerConfig
from gritlm.serve.engine.limits import Limits
from gritlm.serve.stores import StoreAt
from tests import tiny
from tests.serve.conftest import LENGTH, TEXTS, Served, served

pytest.importorskip("numba", reason="compiled steps need the extra compiled")

CHAT, EMBED, ANSWER = "/v1/chat/completions", "/v1/embeddings", "/v1/rag/answer"
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4}
SCHEMA = {"type": "array", "items": {"enum": ["red", "blue"]}, "maxItems": 4}
CLOSE = 1e-4


def chat(text: str, tokens: int = 40, **settings: Any) -> tuple[str, dict[str, Any]]:
    messages = [{"role": "user", "content": text}]
    body = {"messages": messages, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    return CHAT, body | settings


REQUESTS = [
    chat("cats and dogs and cats and"),
    chat("Tell me about Ann and Bob in the park.", 60),
    chat("water", 25, temperature=0.8, seed=5),
    chat(
        "Which colours?",
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "colours", "schema": SCHEMA},
        },
    ),
    chat("Tell me about Ann.", stop=["the", "e"], ignore_eos=False),
    chat("water", logprobs=True, top_logprobs=2),
    (EMBED, {"input": list(TEXTS.values())}),
    (ANSWER, {"question": "When does water boil?", "max_tokens": 24}),
    chat("Dogs?", 8),
    chat("Dogs like long walks.", 30, prompt_lookup_num_tokens=0),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tiny.folder(tmp_path_factory.mktemp("model"), max_position_embeddings=LENGTH, **SIZES)
    ModelSettings(query_instruction="Find the passage", max_length=LENGTH).save(made)
    return made


@pytest.fixture(scope="module")
def answers(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Answers of both servers to all requests, sent together, and the calls of compiled steps."""
    from gritlm.lm.compiled.steps import CompiledStep

    calls: list[int] = []
    logits = CompiledStep.logits

    def counted(self: CompiledStep, ids: Any, *rest: Any, **named: Any) -> Any:
        calls.append(len(ids))
        return logits(self, ids, *rest, **named)

    found = {}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(CompiledStep, "logits", counted)
        for compiled in (False, True):
            model = GritLM(folder, dtype="float32", device="cpu", compile=compiled)
            store = StoreAt(tmp_path_factory.mktemp("store") / "documents")
            with served(model, ServerConfig(port=0), Limits(max_num_seqs=4), store) as server:
                found[compiled] = traffic(server)
    return found[False], found[True], calls


def traffic(server: Served) -> list[dict[str, Any]]:
    """Add documents, then send all requests together; return their answers."""
    documents = [{"id": name, "text": text} for name, text in TEXTS.items()]
    server.http.post("/v1/rag/documents", json={"documents": documents}).raise_for_status()

    def send(request: tuple[str, dict[str, Any]]) -> dict[str, Any]:
        path, body = request
        response = server.http.post(path, json=body)
        assert response.status_code == 200, response.text
        return dict(response.json())

    with ThreadPoolExecutor(len(REQUESTS)) as pool:
        return list(pool.map(send, REQUESTS))


def text_of(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["message"]["content"])


def test_chats_of_all_kinds_are_the_same(answers):
    plain, compiled, calls = answers
    for (path, body), theirs, ours in zip(REQUESTS, plain, compiled, strict=True):
        if path == CHAT:
            assert text_of(ours) == text_of(theirs), body
            assert ours["usage"]["completion_tokens"] == theirs["usage"]["completion_tokens"]
    assert max(calls) > 1, "no step of several sequences was compiled"
    assert len(calls) > 60


def test_log_probabilities_are_near(answers):
    number = next(at for at, (_, body) in enumerate(REQUESTS) if body.get("logprobs"))
    theirs, ours = (
        [each["logprob"] for each in found[number]["choices"][0]["logprobs"]["content"]]
        for found in answers[:2]
    )
    assert len(ours) == 40
    assert ours == pytest.approx(theirs, abs=CLOSE)


def test_vectors_and_an_answer_from_documents_are_the_same(answers):
    plain, compiled, _ = answers
    for (path, _), theirs, ours in zip(REQUESTS, plain, compiled, strict=True):
        if path == EMBED:
            for our, their in zip(ours["data"], theirs["data"], strict=True):
                assert our["embedding"] == pytest.approx(their["embedding"], abs=CLOSE)
        if path == ANSWER:
            assert ours["answer"] == theirs["answer"]
