"""Progress of the addition of documents, as events of a stream."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest

from gritlm.integrations import RagClient
from gritlm.rag import Search
from gritlm.serve.documents import addition
from gritlm.serve.documents.document_store import DocumentStore
from gritlm.serve.stores import StoreAt
from tests.serve.conftest import Served

DOCUMENTS = "/v1/rag/documents"
SEARCH = "/v1/rag/search"


def events(live: Served, documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add documents with a stream, and return its events."""
    body = {"documents": documents, "stream": True}
    with live.http.stream("POST", DOCUMENTS, json=body) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def many(name: str, count: int) -> dict[str, Any]:
    """Return a document of many passages, each with words of its own."""
    text = "\n\n".join(f"{name} {n}. " + "Rain falls on the hills. " * 20 for n in range(count))
    return {"id": name, "text": text}


def test_a_stream_has_the_progress_and_at_last_the_response(live: Served):
    *progress, last = events(live, [many("long", 150), many("short", 3)])
    assert last["object"] == "rag.documents.added"
    assert (last["documents"], last["ids"]) == (2, ["long", "short"])
    assert {each["object"] for each in progress} == {"rag.documents.progress"}
    shares = [each["share"] for each in progress]
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[-1] <= 1
    counts = [each["passages"] for each in progress]
    assert counts == sorted(counts)
    assert any(0 < count <= last["passages"] for count in counts)
    for name in ("long", "short"):
        live.http.delete(f"{DOCUMENTS}/{name}").raise_for_status()


def test_the_response_without_a_stream_is_the_same(live: Served):
    (_, streamed) = events(live, [many("a", 1)])[0], events(live, [many("b", 1)])[-1]
    whole = live.http.post(DOCUMENTS, json={"documents": [many("c", 1)]}).json()
    assert whole.keys() == streamed.keys()
    assert whole["ids"] == ["c"]
    assert whole["documents"] == streamed["documents"] == 1
    for name in "abc":
        live.http.delete(f"{DOCUMENTS}/{name}").raise_for_status()


def test_what_is_wrong_before_the_stream_begins_has_its_own_status(live: Served):
    refused = live.http.post(DOCUMENTS, json={"documents": [], "stream": True})
    assert refused.status_code == 400
    body = {"documents": [{"text": "Rain."}], "store": "other", "stream": True}
    refused = live.http.post(DOCUMENTS, json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (404, "store")


def test_a_stream_of_which_no_document_is_added_ends_with_the_error(live: Served):
    with live.http.stream(
        "POST", DOCUMENTS, json={"documents": [{"id": "a", "text": " "}], "stream": True}
    ) as response:
        lines = [line for line in response.iter_lines() if line]
    error = json.loads(lines[-1].removeprefix("data: "))["error"]
    assert error["code"] == "no_documents_added"
    assert "[DONE]" not in lines[-1]


def test_the_share_grows_with_the_documents_of_a_table(serve, tmp_path, monkeypatch):
    monkeypatch.setattr(addition, "_EVERY_S", 0.001)
    rows = [{"id": f"row{n:03}", "text": f"Row {n:03} of a table."} for n in range(500)]
    *progress, last = events(serve(None, None, StoreAt(tmp_path / "store")), rows)
    assert (last["documents"], last["passages"]) == (500, 500)
    assert len({each["share"] for each in progress}) > 3
    for each in progress:
        assert each["share"] == pytest.approx(min(each["passages"] / 500, 0.99), abs=0.02)


def stored_documents(live: Served) -> int:
    """Return the number of documents that the metrics count."""
    (line,) = re.findall(
        r"^gritlm_rag_documents_added_total.* (\S+)$", live.http.get("/metrics").text, re.M
    )
    return int(float(line))


def test_a_client_that_leaves_stops_the_addition(live: Served, monkeypatch):
    calls: list[bool] = []  # whether each portion has ended
    add = DocumentStore.add

    def slowly(self: DocumentStore, *words: Any, **options: Any) -> None:
        calls.append(False)
        try:
            add(self, *words, **options)
        finally:
            time.sleep(0.3)
            calls[-1] = True

    monkeypatch.setattr(DocumentStore, "add", slowly)
    before = live.http.get(DOCUMENTS).json()["total"]
    counted = stored_documents(live)
    documents = [many(f"left{n}", 20) | {"metadata": {"left": n}} for n in range(30)]
    with live.http.stream("POST", DOCUMENTS, json={"documents": documents, "stream": True}) as sent:
        lines = (line for line in sent.iter_lines() if line)
        next(line for line in lines if json.loads(line[6:])["passages"] > 200)
    deadline = time.monotonic() + 20
    while live.service.scheduler.stats().waiting:
        assert time.monotonic() < deadline, "the reservation is not released"
        time.sleep(0.001)
    assert all(calls)
    assert len(calls) < 5  # portions
    found = live.http.get(DOCUMENTS).json()
    assert 1 <= found["total"] - before < 30
    assert stored_documents(live) - counted == found["total"] - before
    time.sleep(0.5)
    assert live.http.get(DOCUMENTS).json()["total"] == found["total"]
    for each in found["data"]:
        if each["id"].startswith("left"):
            body = {"question": "Rain", "top_k": 1, "filter": {"left": int(each["id"][4:])}}
            (hit,) = live.http.post(SEARCH, json=body).raise_for_status().json()["data"]
            assert hit["document_id"] == each["id"]
            live.http.delete(f"{DOCUMENTS}/{each['id']}").raise_for_status()


def test_passages_of_a_pdf_have_their_page(live: Served):
    from base64 import b64encode

    from tests.pdfs import lines_pdf

    pages = [f"Chapter {word}\n" + f"The {word} is {word}. " * 40 for word in ("fox", "owl", "elk")]
    file = {"name": "animals.pdf", "data": b64encode(lines_pdf(pages)).decode()}
    live.http.post(DOCUMENTS, json={"files": [file]}).raise_for_status()
    found = live.http.post(SEARCH, json={"question": "owl", "top_k": 20}).json()["data"]
    ours = {hit["page"] for hit in found if hit["document_id"] == "animals.pdf"}
    assert ours <= {1, 2, 3}
    assert len(ours) > 1
    for hit in found:
        if hit["document_id"] == "animals.pdf":
            assert ("fox", "owl", "elk")[hit["page"] - 1] in hit["text"]
            assert not any(name.startswith("gritlm.") for name in hit["metadata"])
        else:
            assert hit["page"] is None
    hits = RagClient(live.url).find("owl", Search(top_k=20))
    assert [hit.passage.page for hit in hits] == [hit["page"] for hit in found]
    live.http.delete(f"{DOCUMENTS}/animals.pdf").raise_for_status()
