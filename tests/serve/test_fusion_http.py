"""Answers of every fusion over HTTP, next to chats in the same engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gritlm import GritLM
from gritlm.lm.hub.model_config import FusionSettings, ModelSettings
from gritlm.rag.answer import Answer
from gritlm.rag.engine import RagEngine
from gritlm.serve.config import ServerConfig
from gritlm.serve.engine.limits import Limits
from gritlm.serve.stores import StoreAt
from tests import tiny
from tests.serve.conftest import LENGTH, TEXTS, Served, served

ANSWER = "/v1/rag/answer"
QUESTION = "What colour is the ball?"
CHATS = ["Tell me about cats.", "What is water?", "Count to ten."]
TOKENS = 12
FORMS: list[dict[str, Any]] = [
    {"fusion": "sequence"},
    {"fusion": "token"},
    {"fusion": "token", "contrast": 0.5},
    {"fusion": "joint"},
    {"fusion": "sequence", "mode": "none"},
    {"fusion": "token", "mode": "none"},
    {"fusion": "joint", "mode": "none"},
    {"fusion": "sequence", "blocks": "bidirectional"},
    {"fusion": "sequence", "margin": 0.0},
    {},
]


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that reads every passage."""
    folder = tiny.folder(tmp_path_factory.mktemp("calibrated"), max_position_embeddings=LENGTH)
    ModelSettings(max_length=LENGTH, fusion=FusionSettings(cosine=1.0, margin=2.0)).save(folder)
    return folder


@pytest.fixture(scope="module")
def library(calibrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RagEngine]:
    model = GritLM(calibrated, dtype="float32", device="cpu")
    place = tmp_path_factory.mktemp("library") / "store"
    with RagEngine.open(place, model, longest=LENGTH) as made:
        made.add([{"id": name, "text": text} for name, text in TEXTS.items()])
        yield made


@pytest.fixture(scope="module")
def server(calibrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    model = GritLM(calibrated, dtype="float32", device="cpu")
    store = StoreAt(tmp_path_factory.mktemp("served") / "store")
    with served(model, ServerConfig(port=0), None, store) as found:
        documents = [{"id": name, "text": text} for name, text in TEXTS.items()]
        found.http.post("/v1/rag/documents", json={"documents": documents}).raise_for_status()
        yield found


def body_of(form: dict[str, Any]) -> dict[str, Any]:
    return {"question": QUESTION, "max_tokens": TOKENS, **form}


def wanted(library: RagEngine, form: dict[str, Any]) -> Answer:
    return library.answer(QUESTION, max_new_tokens=TOKENS, **form)


def streamed(server: Served, form: dict[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    """The text of a stream, and the sources of its first event."""
    with server.http.stream("POST", ANSWER, json=body_of(form) | {"stream": True}) as response:
        lines = [line for line in response.iter_lines() if line]
    events = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    choices = [event["choices"][0]["delta"] for event in events if event["choices"]]
    return "".join(delta.get("content") or "" for delta in choices), events[0]["sources"]


def chat(server: Served, text: str) -> str:
    messages = [{"role": "user", "content": text}]
    body = {"messages": messages, "max_tokens": 40, "temperature": 0}
    response = server.http.post("/v1/chat/completions", json=body)
    return str(response.json()["choices"][0]["message"]["content"])


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_an_answer_is_that_of_the_library_with_its_scores(server, library, form):
    found = server.http.post(ANSWER, json=body_of(form)).raise_for_status().json()
    expected = wanted(library, form)
    assert found["answer"] == expected.text
    assert [each["id"] for each in found["sources"]] == [each.id for each in expected.sources]
    assert [each["used"] for each in found["sources"]] == [each.used for each in expected.sources]
    for each, source in zip(found["sources"], expected.sources, strict=True):
        assert (each["likelihood"] is None) == (source.likelihood is None)
        if source.likelihood is not None:
            assert each["likelihood"] == pytest.approx(source.likelihood, rel=1e-5)
    trace = found["trace"]
    assert trace["fusion"] == expected.trace.fusion
    assert [each["passage"] for each in trace["scores"]] == [
        each["passage"] for each in expected.trace.scores
    ]
    for count in ("tokens_prefilled", "tokens_selecting", "tokens_recomputed", "tokens_generated"):
        assert trace[count] == getattr(expected.trace, count)
    assert streamed(server, form) == (found["answer"], found["sources"])


def test_all_fusions_are_answered_in_one_engine_while_chats_run(server, library):
    """Rows of one answer and single sequences go on in the same decode steps."""
    expected = [wanted(library, form).text for form in FORMS]
    chats = [library.model.chat(text, max_new_tokens=40) for text in CHATS]
    with ThreadPoolExecutor(2 * len(FORMS) + len(CHATS)) as pool:
        talked = [pool.submit(chat, server, text) for text in CHATS]
        whole = [pool.submit(server.http.post, ANSWER, json=body_of(form)) for form in FORMS]
        pieces = [pool.submit(streamed, server, form) for form in FORMS]
        assert [each.result().json()["answer"] for each in whole] == expected
        assert [each.result()[0] for each in pieces] == expected
        assert [each.result() for each in talked] == chats


@pytest.mark.parametrize(
    ("form", "param", "message"),
    [
        ({"fusion": "chain"}, "fusion", "sequence"),
        ({"margin": -1}, "margin", "0"),
        ({"margin": 3}, "margin", "2"),
        ({"contrast": -1, "fusion": "token"}, "contrast", "0"),
        ({"contrast": 0.5}, None, "contrast is 0.5, but only fusion 'token' has one; leave it 0"),
        ({"mode": "auto"}, "mode", "none"),
        (
            {"fusion": "sequence", "mode": "query"},
            None,
            "mode 'query' puts all passages into one prompt, fusion 'sequence' reads each alone; "
            "use fusion='joint', or mode 'doc'",
        ),
        ({"blocks": "both"}, "blocks", "causal"),
        ({"fusion": "token", "max_tokens": 500}, None, "500"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(server, form, param, message):
    response = server.http.post(ANSWER, json=body_of(form))
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert message in error["message"]
    if param is not None:
        assert error["param"] == param


def test_more_rows_than_kv_slots_are_refused_by_name(calibrated, tmp_path):
    model = GritLM(calibrated, dtype="float32", device="cpu")
    limits = Limits(max_num_seqs=3)
    with served(model, ServerConfig(port=0), limits, StoreAt(tmp_path / "store")) as few:
        documents = [{"id": name, "text": text} for name, text in TEXTS.items()]
        few.http.post("/v1/rag/documents", json={"documents": documents}).raise_for_status()
        form = {"fusion": "token", "contrast": 0.5}
        response = few.http.post(ANSWER, json=body_of(form))
        assert response.status_code == 400
        message = response.json()["error"]["message"]
        assert "from 4 prompts together, the server has 3 KV slots" in message
        assert "--max-num-seqs=4" in message
        few.http.post(ANSWER, json=body_of({"fusion": "token"})).raise_for_status()
