"""Requests of any size hold up no others: bounded, refused with the numbers, and in turns."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from gritlm.rag.index import passage_rows
from gritlm.rag.index.index import Index
from gritlm.rag.ingest import rows, sources
from gritlm.rag.ingest.ingest import Indexer
from gritlm.serve.config import ServerConfig
from gritlm.serve.documents import addition, document_store
from gritlm.serve.documents.cursors import cursor_of, index_behind
from gritlm.serve.engine.errors import OverloadedError, TooManyTokensError
from gritlm.serve.engine.limits import Limits
from gritlm.serve.engine.queue import QueuedRequest, RequestQueue
from gritlm.serve.schemas import rag
from gritlm.serve.stores import StoreAt
from tests.serve.asking import Asked, endless, held, scheduled, texts_of
from tests.serve.conftest import TEXTS, Served

ANSWER, DOCUMENTS, SEARCH = "/v1/rag/answer", "/v1/rag/documents", "/v1/rag/search"
CHAT, COMPLETE, EMBED, RERANK = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/rerank",
)
QUESTION = {"question": "What colour is the ball?"}
LONG = "cats sleep " * 50_000  # half a million characters
SOON_S = 10.0


def error_of(served: Served, path: str, body: dict[str, Any]) -> dict[str, Any]:
    response = served.http.post(path, json=body)
    assert response.status_code == 400, response.text
    return response.json()["error"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({f"name{n}": 1 for n in range(65)}, "65 values of 65 names, at most 64 values"),
        ({f"name{n}": list(range(8)) for n in range(16)}, "128 values of 16 names"),
        ({"year": list(range(1000))}, "1,000 values of 1 names, at most 64"),
        ({"document_id": "x" * 2**15}, "32,779 characters, at most 16,384"),
    ],
)
def test_a_filter_with_many_terms_is_refused_before_anything_is_searched(
    live: Served, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], told: str
):
    monkeypatch.setattr(Index, "search", None)
    error = error_of(live, SEARCH, QUESTION | {"filter": given})
    assert told in error["message"]
    assert error["param"].startswith("filter")


def test_a_filter_of_as_many_terms_as_are_taken_finds_what_fits(live: Served):
    names = [f"none{n}" for n in range(61)] + list(TEXTS)
    body = QUESTION | {"filter": {"document_id": names}, "top_k": 9}
    found = live.http.post(SEARCH, json=body).json()["data"]
    assert {each["document_id"] for each in found} == set(TEXTS)


def test_the_model_goes_on_while_the_index_is_searched(
    live: Served, monkeypatch: pytest.MonkeyPatch
):
    searching, go_on = threading.Event(), threading.Event()
    search = Index.search

    def slow(index: Index, *given: Any, **options: Any) -> Any:
        searching.set()
        assert go_on.wait(SOON_S)
        return search(index, *given, **options)

    monkeypatch.setattr(Index, "search", slow)
    with ThreadPoolExecutor(2) as pool:
        asked = [
            pool.submit(live.http.post, SEARCH, json=QUESTION),
            pool.submit(live.http.post, ANSWER, json=QUESTION | {"max_tokens": 2}),
        ]
        assert searching.wait(SOON_S)
        for path, body in ((EMBED, {"input": "a"}), (CHAT, chat("Hello") | {"max_tokens": 2})):
            assert live.http.post(path, json=body).status_code == 200
        assert live.http.get("/health").status_code == 200
        go_on.set()
        assert [each.result().status_code for each in asked] == [200, 200]


def chat(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, chat(LONG), "messages"),
        (COMPLETE, {"prompt": ["Hello", LONG]}, "prompt"),
        (EMBED, {"input": ["a", LONG]}, "input"),
        (RERANK, {"query": LONG, "documents": ["a"]}, "query"),
        (RERANK, {"query": "a", "documents": ["a", LONG]}, "documents"),
        (RERANK, {"query": LONG, "documents": ["a"], "method": "generate"}, "query"),
        (SEARCH, {"question": LONG}, "question"),
        (ANSWER, {"question": LONG}, "question"),
    ],
)
def test_a_text_that_cannot_fit_is_refused_before_it_is_tokenized(
    live: Served, monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, Any], param: str
):
    tokens, read = live.service.first.prompts.tokens, []
    encode = tokens._encode
    monkeypatch.setattr(tokens, "_encode", lambda texts: read.extend(texts) or encode(texts))
    error = error_of(live, path, body)
    assert (error["param"], error["code"]) == (param, "context_length_exceeded")
    assert "characters, which are at least" in error["message"]
    assert sum(map(len, read)) < 1000


def test_a_text_that_is_cut_is_only_tokenized_where_it_stays(live: Served):
    body = {"input": LONG, "truncate_prompt_tokens": 40}
    long, short = (
        live.http.post(EMBED, json=body | {"input": text}).json() for text in (LONG, LONG[:2000])
    )
    assert long["data"] == short["data"]
    assert long["usage"]["prompt_tokens"] == 40


def test_a_question_is_not_tokenized_on_the_models_thread_before_it_is_checked(
    live: Served, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(live.service, "run_short_job", None)
    for path in (SEARCH, ANSWER):
        error = error_of(live, path, {"question": "dog " * 600})
        assert (error["param"], error["code"]) == ("question", "context_length_exceeded")


def test_more_tokens_than_a_request_may_have_are_refused_with_the_numbers(
    serve: Callable[..., Served],
):
    served = serve(
        ServerConfig(port=0, allow_token_ids=True), Limits(max_num_seqs=2, max_request_tokens=600)
    )
    many = [[5] * 100] * 7
    for path, body in (
        (EMBED, {"input": many}),
        (COMPLETE, {"prompt": many, "max_tokens": 1}),
        (RERANK, {"query": "a", "documents": ["dog " * 100] * 7}),
        (RERANK, {"query": "a", "documents": ["dog " * 100] * 7, "method": "generate"}),
    ):
        error = error_of(served, path, body)
        assert error["code"] == "max_tokens_per_request", path
        assert "the server takes at most 600 a request" in error["message"]
    assert served.http.post(EMBED, json={"input": many[:4]}).status_code == 200
    texts = served.http.post(EMBED, json={"input": ["x" * 500] * 20})
    assert texts.json()["error"]["code"] == "max_tokens_per_request"  # by its characters


def test_one_prompt_that_fits_the_model_is_never_too_many_tokens(serve: Callable[..., Served]):
    served = serve(ServerConfig(port=0), Limits(max_num_seqs=2, max_request_tokens=8))
    body = {"prompt": [[5] * 400], "max_tokens": 1}
    assert served.http.post(COMPLETE, json=body).status_code == 200


def test_more_text_of_documents_than_a_request_may_have_is_refused(
    serve: Callable[..., Served], tmp_path: Path
):
    limits = Limits(max_num_seqs=2, max_request_tokens=600)
    served = serve(ServerConfig(port=0), limits, StoreAt(tmp_path / "store"))
    error = error_of(served, DOCUMENTS, {"documents": [{"text": "Rain. " * 500}]})
    assert error["code"] == "max_tokens_per_request"
    assert "3,000 characters, the server takes at most 2,400" in error["message"]
    assert served.http.get(DOCUMENTS).json()["total"] == 0


def test_one_large_request_has_no_small_one_refused():
    limits = Limits(max_waiting=16, max_waiting_tokens=1600)
    assert limits.share == 100
    inbox = RequestQueue(limits)

    def put(tokens: int) -> None:
        inbox.reserve()
        inbox.put([QueuedRequest(texts_of([tokens]), print)])

    put(4000)  # more than may wait: taken, since nothing else does
    for _ in range(10):
        put(100)
    with pytest.raises(OverloadedError, match="5000 tokens wait already, at most 1600 may"):
        put(101)
    for _ in range(5):
        put(100)
    with pytest.raises(OverloadedError, match="16 requests wait already"):
        put(1)


def test_usual_limits_take_other_requests_while_the_largest_one_waits():
    limits = Limits()
    inbox = RequestQueue(limits)
    for tokens in (limits.max_request_tokens, 100_000, *[4096] * 200):
        inbox.reserve()
        inbox.put([QueuedRequest(texts_of([tokens]), print)])
    assert inbox.waiting == 202


def test_a_request_with_too_many_tokens_leaves_nothing_behind(tiny_model):
    model = endless(tiny_model)
    with scheduled(model, max_request_tokens=600) as scheduler:
        with scheduler.reserve() as place, pytest.raises(TooManyTokensError):
            place.submit([texts_of([300, 301])], [print])
        assert scheduler.stats().waiting == scheduler.stats().waiting_tokens == 0
        with held(scheduler):
            large = Asked(scheduler, texts_of([300, 300]))
            small = Asked(scheduler, texts_of([8]))
        assert large.value.shape == (2, 48)
        assert small.value.shape == (1, 48)


def test_small_texts_are_embedded_while_a_large_request_is_read(live: Served):
    with ThreadPoolExecutor(1) as pool:
        large = pool.submit(live.http.post, EMBED, json={"input": [[5] * 100] * 2000})
        wait_until(lambda: live.service.scheduler.stats().running)
        for _ in range(3):
            assert live.http.post(EMBED, json={"input": "a small text"}).status_code == 200
        assert not large.done()
        assert large.result().status_code == 200


def wait_until(true: Callable[[], object]) -> None:
    until = time.monotonic() + SOON_S
    while not true():
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.002)


def test_documents_of_two_requests_go_in_by_turns(live: Served, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(addition, "_PORTION", 200)
    large = [{"id": f"large{n}", "text": f"Fact {n}. " * 20} for n in range(24)]
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(live.http.post, DOCUMENTS, json={"documents": large})
        wait_until(lambda: live.http.get(DOCUMENTS).json()["total"] > len(TEXTS))
        small = live.http.post(DOCUMENTS, json={"documents": [{"id": "small", "text": "Snow."}]})
        assert small.json()["ids"] == ["small"]
        assert live.http.delete(f"{DOCUMENTS}/small").status_code == 200
        assert not first.done(), "they went in while the large request did"
        added = first.result().json()
    assert (added["documents"], added["ids"]) == (24, [each["id"] for each in large])
    for each in large:
        live.http.delete(f"{DOCUMENTS}/{each['id']}").raise_for_status()


def test_a_client_that_leaves_its_documents_is_not_worked_for(
    live: Served, monkeypatch: pytest.MonkeyPatch
):
    read: list[int] = []
    encoded = Indexer._encode_texts

    def noted(indexer: Indexer, texts: Any) -> Any:
        read.append(len(texts))
        time.sleep(0.05)
        return encoded(indexer, texts)

    monkeypatch.setattr(Indexer, "_encode_texts", noted)
    body = {"documents": [{"id": "left", "text": "Cats sleep most of the day. " * 4000}]}
    with pytest.raises(httpx.TimeoutException):
        live.http.post(DOCUMENTS, json=body, timeout=0.5)
    wait_until(lambda: not live.service.running)
    time.sleep(0.3)
    before = len(read)
    time.sleep(0.3)
    assert len(read) == before
    assert live.http.get(DOCUMENTS).json()["total"] == len(TEXTS)


@pytest.fixture
def fresh(serve: Callable[..., Served], tmp_path: Path) -> Served:
    """A server with an empty store of its own."""
    return serve(ServerConfig(port=0), None, StoreAt(tmp_path / "store"))


def test_a_page_of_documents_ends_where_it_gets_large(
    fresh: Served, monkeypatch: pytest.MonkeyPatch
):
    about = {"note": "x" * 900}
    many = [{"id": f"m{n:02}", "text": f"Note {n}.", "metadata": about} for n in range(30)]
    fresh.http.post(DOCUMENTS, json={"documents": many}).raise_for_status()
    monkeypatch.setattr(document_store, "PAGE_BYTES", 9_000)
    seen: list[str] = []
    sizes: list[int] = []
    after: dict[str, str] = {}
    while True:
        response = fresh.http.get(DOCUMENTS, params={"limit": 1000, **after})
        page = response.json()
        sizes.append(len(response.content))
        seen += [each["id"] for each in page["data"]]
        if not page["has_more"]:
            break
        after = {"after": page["last_id"]}
    assert seen == [each["id"] for each in many]
    assert max(sizes) < 2 * 9_000
    assert len(sizes) >= 3


def test_documents_of_an_older_store_are_listed_behind_ids_of_any_length(
    fresh: Served, monkeypatch: pytest.MonkeyPatch
):
    for module in (rows, sources, rag):  # as earlier versions took them
        monkeypatch.setattr(module, "check_document_id", str)
    start = "é" * 600
    ids = sorted(["a", start, start + "1", start + "x" * 200_000, start + "2", "z"])
    many = [{"id": each, "text": f"Note {n}."} for n, each in enumerate(ids)]
    fresh.http.post(DOCUMENTS, json={"documents": many}).raise_for_status()
    seen: list[str] = []
    after: dict[str, str] = {}
    for _ in ids:
        page = fresh.http.get(DOCUMENTS, params={"limit": 1, **after}).raise_for_status().json()
        seen += [each["id"] for each in page["data"]]
        after = {"after": page["last_id"]}
    assert seen == ids
    assert not page["has_more"]


def test_a_cursor_goes_on_behind_a_document_that_was_deleted():
    ids = ["a", "b" * 600, "b" * 601, "c", "d"]
    for place, each in enumerate(ids):
        cursor = cursor_of(each)
        assert len(cursor) <= 512
        assert index_behind(ids, cursor) == place + 1
    assert index_behind(["a", "c", "d"], cursor_of("b" * 600)) == 1
    assert index_behind(["a", "d"], cursor_of("c")) == 1


def test_large_metadata_of_an_older_store_is_not_read(
    fresh: Served, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(passage_rows, "LARGEST", 400)
    monkeypatch.setattr(passage_rows, "LARGE", passage_rows.LARGE.replace("32768", "400"))
    large, usual = {"note": "x" * 500}, {"note": "y"}
    both = [
        {"id": "large", "text": "Rain falls.", "metadata": large},
        {"id": "usual", "text": "Rain falls too.", "metadata": usual},
    ]
    fresh.http.post(DOCUMENTS, json={"documents": both}).raise_for_status()
    for hybrid in (False, True):
        body = {"question": "Does rain fall?", "hybrid": hybrid}
        hits = fresh.http.post(SEARCH, json=body).json()["data"]
        found = {each["document_id"]: each["metadata"] for each in hits}
        assert found == {"large": None, "usual": usual}
    listed = fresh.http.get(DOCUMENTS).json()["data"]
    assert {each["id"]: each["metadata"] for each in listed} == found
    (hit,) = fresh.http.post(SEARCH, json={"question": "a", "filter": usual}).json()["data"]
    assert hit["metadata"] == usual
    library = fresh.service.stores.engines["default"].documents()
    assert {each.id: each.metadata for each in library} == {"large": large, "usual": usual}


def test_a_search_whose_client_has_left_is_not_begun(live: Served, monkeypatch: pytest.MonkeyPatch):
    begun: list[int] = []
    go_on = threading.Event()
    search = Index.search

    def slow(index: Index, *given: Any, **options: Any) -> Any:
        begun.append(1)
        assert go_on.wait(SOON_S)
        return search(index, *given, **options)

    monkeypatch.setattr(Index, "search", slow)
    threads = live.service._search_pool._max_workers
    with ThreadPoolExecutor(threads) as pool:
        asked = [pool.submit(live.http.post, SEARCH, json=QUESTION) for _ in range(threads)]
        wait_until(lambda: len(begun) == threads)
        with pytest.raises(httpx.TimeoutException):
            live.http.post(SEARCH, json=QUESTION, timeout=0.5)
        wait_until(lambda: live.service.running == threads)
        go_on.set()
        assert [each.result().status_code for each in asked] == [200] * threads
    assert live.http.post(SEARCH, json=QUESTION).status_code == 200
    assert len(begun) == threads + 1
