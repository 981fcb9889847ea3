"""Long requests to a server with documents let short ones through, and all are counted."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gritlm import GritLM
from gritlm.rag.cooperative import OnModel
from gritlm.rag.engine import RagEngine
from gritlm.serve.api import embeddings, rerank_by_reading
from tests.serve.conftest import TEXTS, Served

ANSWER, DOCUMENTS, SEARCH = "/v1/rag/answer", "/v1/rag/documents", "/v1/rag/search"
QUESTION = {"question": "What colour is the ball?"}
LONG_S = 20


def test_documents_can_be_searched_and_listed_while_others_are_added(
    live: Served, monkeypatch: pytest.MonkeyPatch
):
    found, begun = threading.Event(), threading.Event()
    add = RagEngine.add

    def slow(engine: RagEngine, *given: Any, on_model: OnModel, **options: Any) -> Any:
        begun.set()
        while not found.is_set():
            on_model(lambda: None)
        return add(engine, *given, on_model=on_model, **options)

    monkeypatch.setattr(RagEngine, "add", slow)
    documents = {"documents": [{"id": "late", "text": "Snow is cold."}]}
    with ThreadPoolExecutor(1) as pool:
        added = pool.submit(live.http.post, DOCUMENTS, json=documents)
        assert begun.wait(LONG_S)
        hits = live.http.post(SEARCH, json=QUESTION | {"rerank": 3}, timeout=LONG_S).json()["data"]
        listed = live.http.get(DOCUMENTS, timeout=LONG_S).json()["total"]
        found.set()
        assert added.result().json()["documents"] == 1
    assert hits
    assert listed == len(TEXTS)
    live.http.delete(f"{DOCUMENTS}/late").raise_for_status()


def test_one_long_document_to_rerank_lets_others_through_while_it_is_read(
    live: Served, monkeypatch: pytest.MonkeyPatch
):
    let_in: list[int] = []
    monkeypatch.setattr(
        rerank_by_reading, "paced", lambda checkpoint: lambda: let_in.append(checkpoint() or 1)
    )
    body = {"query": "cats", "documents": ["cat " * 200], "method": "generate"}
    live.http.post("/v1/rerank", json=body).raise_for_status()
    assert len(let_in) >= live.service.model.lm.config.num_hidden_layers


def test_tokens_of_an_answer_that_came_from_the_store_are_counted(live: Served):
    live.http.post(ANSWER, json=QUESTION | {"mode": "doc", "max_tokens": 2}).raise_for_status()
    before = cached(live)
    usage = live.http.post(ANSWER, json=QUESTION | {"mode": "doc", "max_tokens": 2}).json()["usage"]
    read = usage["prompt_tokens_details"]["cached_tokens"]
    assert cached(live) - before == read > 0


def cached(live: Served) -> float:
    text = live.http.get("/metrics").text
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "gritlm_prompt_tokens_cached_total"
        and sample.labels["endpoint"] == ANSWER
    )


def test_nothing_multiplies_in_a_thread_that_stays_but_the_models(
    live: Served, monkeypatch: pytest.MonkeyPatch
):
    """Its team of OpenMP would stall that of the model's thread from then on."""
    threads: list[threading.Thread] = []
    similarity, cut = GritLM.similarity, embeddings.truncated

    def compared(*given: Any) -> Any:
        threads.append(threading.current_thread())
        return similarity(*given)

    def shortened(*given: Any, **options: Any) -> Any:
        threads.append(threading.current_thread())
        return cut(*given, **options)

    monkeypatch.setattr(GritLM, "similarity", compared)
    monkeypatch.setattr(embeddings, "truncated", shortened)
    live.http.post("/v1/rerank", json={"query": "cats", "documents": ["one", "two"]})
    live.http.post("/v1/embeddings", json={"input": "cats", "dimensions": 8}).raise_for_status()
    assert len(threads) == 2
    assert not any(thread.is_alive() for thread in threads)
