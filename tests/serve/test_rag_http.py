"""Documents over HTTP: added, listed, searched, answered from, deleted."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import weakref
from base64 import b64encode, encodebytes
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import sleep
from typing import Any

import pytest

from gritlm import GritLM, jsonl
from gritlm.errors import InputError
from gritlm.rag.answer import PreparedAnswer
from gritlm.rag.engine import RagEngine
from gritlm.rag.index.lance_table import LanceTable
from gritlm.rag.ingest import file_reader, records, rows
from gritlm.rag.ingest.readers import READERS
from gritlm.rag.kvstore.errors import IndexDamagedError, StoreFullError
from gritlm.rag.kvstore.store import KVStore
from gritlm.rag.types import Trace
from gritlm.serve.config import ServerConfig
from gritlm.serve.documents import uploads
from gritlm.serve.documents.document_store import RunningAnswer
from gritlm.serve.engine.errors import OverloadedError
from gritlm.serve.schemas.rag import AddDocumentsRequest, FileObject
from gritlm.serve.stores import StoreAt
from tests.pdfs import slow_pdf
from tests.serve.conftest import TEXTS, Served

DOCUMENTS, SEARCH, ANSWER = "/v1/rag/documents", "/v1/rag/search", "/v1/rag/answer"
QUESTION = "What colour is the ball?"
SLOW = b64encode(slow_pdf()).decode()


def events_of(live: Served, body: dict[str, Any]) -> list[dict[str, Any]]:
    """Events of a streamed answer, which ends as streams do."""
    with live.http.stream("POST", ANSWER, json=body | {"stream": True}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line]
    assert lines.pop() == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


@pytest.fixture(scope="module")
def engine(oracle: GritLM, tmp_path_factory: pytest.TempPathFactory):
    """The same documents in a store of the library's."""
    place = tmp_path_factory.mktemp("library") / "store"
    with RagEngine.open(place, oracle, longest=512) as made:
        made.add([{"id": name, "text": text} for name, text in TEXTS.items()])
        yield made


@pytest.mark.parametrize("mode", ["none", "query", "doc", "doc-query", "query-doc"])
def test_an_answer_is_that_of_the_library(live: Served, engine: RagEngine, mode: str):
    body = {"question": QUESTION, "mode": mode, "max_tokens": 12, "top_k": 2}
    found = live.http.post(ANSWER, json=body).json()
    wanted = engine.answer(QUESTION, mode=mode, top_k=2, max_new_tokens=12)
    assert found["answer"] == wanted.text
    assert [each["id"] for each in found["sources"]] == [each.id for each in wanted.sources]
    assert [each["text"] for each in found["sources"]] == [each.text for each in wanted.sources]
    trace = found["trace"]
    assert trace["tokens_prefilled"] == wanted.trace.tokens_prefilled
    assert trace["tokens_generated"] == wanted.trace.tokens_generated == 12
    assert {"embed", "search", "prefill", "first_token", "decode"} <= set(trace["milliseconds"])
    assert found["usage"]["prompt_tokens"] == sum(part["tokens"] for part in trace["parts"])
    assert found["finish_reason"] == "length"


def test_a_stream_begins_with_the_sources_and_ends_with_the_trace(live: Served):
    body = {"question": QUESTION, "max_tokens": 12}
    whole = live.http.post(ANSWER, json=body).json()
    first, *events, last = events_of(live, body)
    assert [each["id"] for each in first["sources"]] == [each["id"] for each in whole["sources"]]
    assert first["choices"][0]["delta"]["role"] == "assistant"
    text = "".join(event["choices"][0]["delta"].get("content", "") for event in events)
    assert text == whole["answer"]
    assert events[-1]["choices"][0]["finish_reason"] == "length"
    assert last["choices"] == []
    assert last["trace"]["tokens_generated"] == 12
    assert last["usage"]["completion_tokens"] == 12


def test_a_search_finds_what_the_library_finds(live: Served, engine: RagEngine):
    found = live.http.post(SEARCH, json={"question": QUESTION, "top_k": 3}).json()["data"]
    wanted = engine.retrieve(QUESTION, top_k=3)
    assert [each["document_id"] for each in found] == [hit.passage.document_id for hit in wanted]
    for each, hit in zip(found, wanted, strict=True):
        assert each["score"] == pytest.approx(hit.score, abs=1e-5)
        assert each["rank"] == hit.rank
        assert TEXTS[each["document_id"]][each["start"] : each["end"]] == each["text"]


def test_base64_may_be_broken_into_lines(live: Served):
    page = b"<title>Wrapped</title><p>" + b"Base64 in lines of 76 characters is common. " * 5
    files = [
        {"name": f"wrapped{ending}", "data": encodebytes(data).decode().replace("\n", "\r\n")}
        for ending, data in ((".html", page), (".txt", page))
    ]
    added = live.http.post(DOCUMENTS, json={"files": files}).json()
    assert (added["documents"], added["skipped"]) == (2, [])
    for file in files:
        live.http.delete(f"{DOCUMENTS}/{file['name']}").raise_for_status()


def test_documents_come_go_and_can_be_filtered_by(live: Served):
    new = {
        "id": "notes/new one?.md",
        "text": "# Rain\n\nIt rains.",
        "markdown": True,
        "title": "Rain",
        "metadata": {"year": 2024, "lang": "en"},
    }
    added = live.http.post(DOCUMENTS, json={"documents": [new]}).json()
    assert (added["documents"], added["ids"], added["skipped"]) == (1, [new["id"]], [])
    again = live.http.post(DOCUMENTS, json={"documents": [new]}).json()
    assert (again["documents"], again["unchanged"]) == (0, 1)
    listed = live.http.get(DOCUMENTS).json()
    assert listed["total"] == len(TEXTS) + 1
    assert {each["id"] for each in listed["data"]} == {*TEXTS, new["id"]}
    page = live.http.get(DOCUMENTS, params={"limit": 2, "after": listed["data"][0]["id"]}).json()
    assert [each["id"] for each in page["data"]] == [each["id"] for each in listed["data"][1:3]]
    assert page["has_more"]
    everything = {"question": "Does it rain?", "top_k": 9}
    found = live.http.post(SEARCH, json=everything | {"filter": {}}).json()
    assert found == live.http.post(SEARCH, json=everything).json()
    fit = {"question": "Does it rain?", "filter": {"year": [2023, 2024], "lang": "en"}}
    assert [each["title"] for each in live.http.post(SEARCH, json=fit).json()["data"]] == ["Rain"]
    place = f"{DOCUMENTS}/notes%2Fnew%20one%3F.md"
    assert live.http.delete(place).json()["deleted"] is True
    gone = live.http.delete(place)
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "document_not_found")
    assert live.http.get(DOCUMENTS).json()["total"] == len(TEXTS)


def test_a_page_of_documents_reads_no_others(live: Served, monkeypatch: pytest.MonkeyPatch):
    read = []
    scan = LanceTable.scan

    def noted(*given: Any, **options: Any) -> Iterator[dict[str, Any]]:
        for row in scan(*given, **options):
            read.append(row)
            yield row

    live.http.get(DOCUMENTS)  # ids are known then
    monkeypatch.setattr(LanceTable, "scan", noted)
    page = live.http.get(DOCUMENTS, params={"limit": 1, "after": "ball"}).json()
    assert ([each["id"] for each in page["data"]], page["has_more"]) == (["cats"], True)
    assert [row["document_id"] for row in read] == ["cats"]
    end = live.http.get(DOCUMENTS, params={"after": "water"}).json()
    assert (end["data"], end["has_more"], end["last_id"]) == ([], False, None)


def test_files_are_read_by_their_endings_and_never_from_the_disk(live: Served, tmp_path: Path):
    secret = tmp_path / "secret.txt"
    secret.write_text("The password is swordfish.")
    rows = '{"text": "Snow is cold.", "id": "snow"}\n{"no": 1}\n'
    files = [
        {"name": "walks.md", "data": coded("# Walks\n\nDogs like them."), "metadata": {"a": 1}},
        {"name": "rows.jsonl", "data": coded(rows)},
        {"name": str(secret), "data": coded("Only this.")},
        {"name": "tool.exe", "data": coded("MZ")},
        {"name": "broken.pdf", "data": coded("no pdf")},
        {"name": "bad.txt", "data": "$$$"},
    ]
    added = live.http.post(DOCUMENTS, json={"files": files}).json()
    assert added["ids"] == ["walks.md", "rows.jsonl#snow", str(secret)]
    assert [each["name"] for each in added["skipped"]] == [
        "rows.jsonl",
        "tool.exe",
        "broken.pdf",
        "bad.txt",
    ]
    hits = live.http.post(SEARCH, json={"question": "password", "top_k": 9}).json()["data"]
    assert not any("swordfish" in each["text"] for each in hits)
    assert any(each["text"] == "Only this." for each in hits)
    for name in added["ids"]:
        live.http.delete(f"{DOCUMENTS}/{name.replace('#', '%23')}").raise_for_status()


def test_a_file_that_takes_too_long_holds_up_nobody(live: Served, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(file_reader, "SECONDS", 0.5)
    files = [{"name": "slow.pdf", "data": SLOW}, {"name": "a.txt", "data": coded("Yes.")}]
    added = live.http.post(DOCUMENTS, json={"files": files}).json()
    assert added["ids"] == ["a.txt"]
    (skipped,) = added["skipped"]
    assert skipped["name"] == "slow.pdf"
    assert "0.5 seconds" in skipped["reason"]
    live.http.delete(f"{DOCUMENTS}/a.txt").raise_for_status()


def test_pages_are_read_as_the_library_reads_them():
    page = b"<title>Walks</title><h1>Dogs</h1><p>They like <b>long</b> walks.</p>"
    given = [(".html", b64encode(page).decode()), (".pdf", "AAAA"), (".html", "$$$")]
    found, broken, odd = file_reader.FileReader().contents(given)
    assert found == READERS[".html"](page)
    assert "no PDF" in broken
    assert isinstance(odd, str)


def test_the_process_that_reads_files_loads_no_model_library():
    script = "import sys, gritlm.rag.ingest.file_reader; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True
    )
    assert {"pypdf", "gritlm.rag.ingest.readers"} <= set(loaded.stdout.split())
    assert not {"torch", "transformers", "numpy", "pydantic"} & set(loaded.stdout.split())


def test_a_reader_that_is_closed_ends_what_it_reads():
    reader = file_reader.FileReader()
    threading.Timer(0.3, reader.close).start()
    assert reader.contents([(".pdf", SLOW)]) == ["the process that read it broke down"]


def test_a_slow_file_does_not_hold_up_the_files_of_others(
    live: Served, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(file_reader, "SECONDS", 8)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(
            live.http.post, DOCUMENTS, json={"files": [{"name": "slow.pdf", "data": SLOW}]}
        )
        documents = live.server.config.app.state.documents["default"]  # type: ignore[union-attr]
        while not documents._reader._processes:
            sleep(0.01)
        quick = {"files": [{"name": "quick.html", "data": coded("<p>Quick.</p>")}]}
        assert live.http.post(DOCUMENTS, json=quick).json()["ids"] == ["quick.html"]
        assert not slow.done()
        (skipped,) = slow.result().json()["skipped"]
    assert "within 8 seconds" in skipped["reason"]
    live.http.delete(f"{DOCUMENTS}/quick.html").raise_for_status()


def test_documents_are_only_read_when_there_is_room(live: Served, monkeypatch: pytest.MonkeyPatch):
    def full() -> None:
        raise OverloadedError("full", retry_after_s=1)

    def read(*_: object) -> None:
        raise AssertionError("nothing is read")

    monkeypatch.setattr(uploads, "documents", read)
    monkeypatch.setattr(live.service.scheduler, "reserve", full)
    assert live.http.post(DOCUMENTS, json={"documents": [{"text": "a"}]}).status_code == 429


def test_a_full_disk_is_the_servers_matter(live: Served, monkeypatch: pytest.MonkeyPatch):
    put = KVStore.put_many

    def full(store: KVStore, blocks: Any) -> int:
        calls.append(1)
        if len(calls) > 1:
            raise StoreFullError("/srv/secret/kv: the disk is full")
        return put(store, blocks)

    calls: list[int] = []
    monkeypatch.setattr("gritlm.rag.ingest.ingest.BATCH", 1)
    monkeypatch.setattr(KVStore, "put_many", full)
    two = [{"id": f"full{n}", "text": f"Nothing of {n}."} for n in range(2)]
    refused = live.http.post(DOCUMENTS, json={"documents": two})
    assert refused.status_code == 507
    error = refused.json()["error"]
    assert (error["type"], error["code"]) == ("server_error", "insufficient_storage")
    assert "1 of 2 documents are in its store" in error["message"]
    assert "secret" not in refused.text
    monkeypatch.setattr(KVStore, "put_many", put)
    again = live.http.post(DOCUMENTS, json={"documents": two}).json()
    assert (again["documents"], again["unchanged"]) == (1, 1)
    for each in two:
        assert live.http.delete(f"{DOCUMENTS}/{each['id']}").status_code == 200


def test_a_damaged_store_is_no_fault_of_the_request(live: Served, monkeypatch: pytest.MonkeyPatch):
    def damaged(*_: object) -> None:
        raise IndexDamagedError("/srv/secret/kv: the index cannot be read")

    monkeypatch.setattr(KVStore, "fetch", damaged)
    failed = live.http.post(ANSWER, json={"question": QUESTION})
    assert failed.status_code == 500
    assert "secret" not in failed.text


def test_what_is_skipped_is_named_as_it_was_sent(live: Served):
    twice = [{"id": "one", "text": "First."}, {"id": "one", "text": "Second."}, {"text": "  "}]
    added = live.http.post(DOCUMENTS, json={"documents": twice}).json()
    assert added["ids"] == ["one"]
    assert added["skipped"] == [
        {"name": "documents[1]", "reason": "its id 'one' is that of documents[0]"},
        {"name": "documents[2]", "reason": "empty: 'text' is missing or holds only white space"},
    ]
    live.http.delete(f"{DOCUMENTS}/one").raise_for_status()


@pytest.mark.parametrize("name", ["x" * 513, "é" * 257, ".", "..", "a\nb", "a\u202eb", ""])
def test_one_rule_for_ids_however_they_come(live: Served, name: str):
    refused = live.http.post(DOCUMENTS, json={"documents": [{"id": name, "text": "Rain."}]})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "documents[0].id"
    row = json.dumps({"id": name, "text": "Rain."})
    added = live.http.post(DOCUMENTS, json={"files": [{"name": "r.jsonl", "data": coded(row)}]})
    assert (added.json()["documents"], added.json()["skipped_count"]) == (0, 1)
    assert "'id'" in added.json()["skipped"][0]["reason"]


def test_rows_are_read_as_other_tools_write_them(live: Served):
    body = {
        "documents": [
            {"_id": "beir", "text": "Rain falls."},
            {"id": 5.0, "page_content": "Snow falls."},
            {
                "id": "tags",
                "contents": "Hail falls.",
                "metadata": {"tags": ["a"], "by": {"who": "x"}},
            },
        ]
    }
    added = live.http.post(DOCUMENTS, json=body).json()
    assert added["ids"] == ["beir", "5", "tags"]
    listed = {each["id"]: each["metadata"] for each in live.http.get(DOCUMENTS).json()["data"]}
    assert listed["tags"] == {"tags": ["a"], "by.who": "x"}
    for name in added["ids"]:
        live.http.delete(f"{DOCUMENTS}/{name}").raise_for_status()


def test_tables_and_arrays_are_read_as_rows(live: Served):
    files = [
        {"name": "t.csv", "data": coded("id,text\n1,Rain falls.\n"), "metadata": {"from": "t"}},
        {
            "name": "n.json",
            "data": coded('[{"id": "n", "body": "Snow."}, 3]'),
            "text_field": "body",
        },
    ]
    added = live.http.post(DOCUMENTS, json={"files": files}).json()
    assert added["ids"] == ["t.csv#1", "n.json#n"]
    assert added["skipped"] == [
        {"name": "n.json", "reason": "item [1]: int; expected an object or text"}
    ]
    for name in added["ids"]:
        live.http.delete(f"{DOCUMENTS}/{name.replace('#', '%23')}").raise_for_status()


def test_skipped_rows_are_counted_and_only_the_first_are_named(live: Served):
    files = [{"name": "r.jsonl", "data": coded("1\n" * 5000)}]
    response = live.http.post(DOCUMENTS, json={"files": files})
    added = response.json()
    assert (added["skipped_count"], len(added["skipped"])) == (5000, 100)
    assert len(response.content) < 20_000


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("r.jsonl", "1\n" * 5000),
        ("r.jsonl", "{\n" * 5000),
        ("r.jsonl", "{a}\n" * 5000),
        ("r.jsonl", "{}\n" * 5000),
        ("r.json", f"[{'1,' * 4999}1]"),
        ("r.csv", "a\n" + "b\n" * 5000),
    ],
)
def test_only_the_skipped_rows_that_are_named_take_a_message(
    name: str, data: str, monkeypatch: pytest.MonkeyPatch
):
    made = []

    class CountedError(InputError):
        def __init__(self, reason: str) -> None:
            made.append(reason)
            super().__init__(reason)

    monkeypatch.setattr(jsonl, "InputError", CountedError)
    monkeypatch.setattr(records, "InputError", CountedError)
    monkeypatch.setattr(rows, "InputError", CountedError)
    body = AddDocumentsRequest(files=[FileObject(name=name, data=coded(data))])
    found, skipped = uploads.documents(body, file_reader.FileReader())
    assert (found, skipped.count, len(skipped.named)) == ([], 5000, 100)
    assert len(made) == 100
    assert all(each.reason.endswith(made[place]) for place, each in enumerate(skipped.named))


def test_metadata_has_a_size(live: Served):
    large = {"id": "large", "text": "Rain.", "metadata": {"note": "x" * 20_000}}
    added = live.http.post(DOCUMENTS, json={"documents": [large]}).json()
    (skipped,) = added["skipped"]
    assert skipped["name"] == "large"
    assert "bytes; expected at most 16,384" in skipped["reason"]


def test_ids_in_rows_stand_on_one_line(live: Served):
    row = json.dumps({"id": "a\nb", "text": "Rain."})
    files = [{"name": "rows.jsonl", "data": coded(row)}]
    refused = live.http.post(DOCUMENTS, json={"files": files})
    assert refused.status_code == 400
    assert "control characters" in refused.json()["error"]["message"]


def test_a_request_of_which_no_document_goes_in_is_refused_with_the_reasons(live: Served):
    before = live.http.get(DOCUMENTS).json()
    files = [{"name": f"tool{n}.exe", "data": coded("MZ")} for n in range(5)]
    refused = live.http.post(
        DOCUMENTS, json={"files": files[:1], "documents": [{"id": "a", "text": " "}]}
    )
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (400, "no_documents_added")
    assert (refused.json()["documents"], refused.json()["skipped_count"]) == (0, 2)
    assert error["message"].startswith("No document went in: a: empty")
    assert "; tool0.exe: .exe: not a kind that is read" in error["message"]
    many = live.http.post(DOCUMENTS, json={"files": files}).json()["error"]["message"]
    assert many.endswith("; and 2 more")
    assert live.http.get(DOCUMENTS).json() == before


def test_a_request_of_which_some_documents_are_known_or_go_in_is_answered_with_the_rest(
    live: Served,
):
    known = {"id": "water", "text": TEXTS["water"]}
    added = live.http.post(DOCUMENTS, json={"documents": [known, {"text": " "}]})
    assert added.status_code == 200
    assert (added.json()["documents"], added.json()["unchanged"]) == (0, 1)
    assert len(added.json()["skipped"]) == 1


def coded(text: str) -> str:
    return b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (DOCUMENTS, {}, None),
        (DOCUMENTS, {"documents": [{"text": ""}]}, "documents[0].text"),
        (DOCUMENTS, {"documents": [{"text": "a", "path": "/etc"}]}, "documents[0].path"),
        (DOCUMENTS, {"documents": [{"text": "a", "id": "a\nb"}]}, "documents[0].id"),
        (DOCUMENTS, {"files": [{"name": "a\u2028.txt", "data": ""}]}, "files[0].name"),
        (
            DOCUMENTS,
            {"documents": [{"text": "a", "metadata": {str(n): 1 for n in range(999)}}]},
            "documents[0].metadata",
        ),
        (SEARCH, {"question": ""}, "question"),
        (SEARCH, {"question": "a", "top_k": 0}, "top_k"),
        (SEARCH, {"question": "a", "filter": "1 = 1; DROP TABLE x"}, "filter"),
        (SEARCH, {"question": "a", "filter": {"year": []}}, "filter"),
        (SEARCH, {"question": "a", "filter": {"unknown": 1}}, None),
        (ANSWER, {"question": "a", "mode": "all"}, "mode"),
        (ANSWER, {"question": "   "}, "question"),
        (ANSWER, {"question": "dog " * 600}, None),
        (ANSWER, {"question": "a", "max_tokens": 100_000}, None),
        (ANSWER, {"question": "a", "temperature": -1}, "temperature"),
    ],
)
def test_what_cannot_be_asked_is_refused(live: Served, path, body, param):
    response = live.http.post(path, json=body)
    assert response.status_code == 400, response.text
    if param is not None:
        assert response.json()["error"]["param"] == param


def test_a_server_without_a_store_says_how_to_start_one(serve: Callable[..., Served]):
    bare = serve()
    for response in (
        bare.http.get(DOCUMENTS),
        bare.http.delete(f"{DOCUMENTS}/a"),
        bare.http.post(DOCUMENTS, json={"documents": [{"text": "a"}]}),
        bare.http.post(ANSWER, json={"question": "a"}),
        bare.http.post(SEARCH, json={"question": "a"}),
    ):
        assert response.status_code == 404
        assert "--store" in response.json()["error"]["message"]
    assert bare.http.get("/v1/models").json()["data"][0]["documents"] is False


def test_a_store_that_is_shared_is_only_read(
    live: Served, serve: Callable[..., Served], store_folder: Path
):
    reader = serve(ServerConfig(port=0), None, StoreAt(store_folder, read_only=True))
    found = reader.http.post(ANSWER, json={"question": QUESTION, "max_tokens": 12}).json()
    wanted = live.http.post(ANSWER, json={"question": QUESTION, "max_tokens": 12}).json()
    assert found["answer"] == wanted["answer"]
    response = reader.http.post(DOCUMENTS, json={"documents": [{"text": "a"}]})
    assert (response.status_code, response.json()["error"]["code"]) == (403, "read_only")
    assert reader.http.delete(f"{DOCUMENTS}/ball").status_code == 403


def test_a_running_answer_does_not_keep_the_prefilled_prompt():
    """Its cache is a view of the rows of all candidates."""

    class Prompt:
        pass

    kept = []

    class Store:
        def read(self, *_: object) -> PreparedAnswer:
            prompt = Prompt()
            kept.append(weakref.ref(prompt))
            return PreparedAnswer(prompt, (), Trace(tokens_reused=7), 0.0)  # type: ignore[arg-type]

    running = RunningAnswer(Store(), None)  # type: ignore[arg-type]
    assert isinstance(running.begin(lambda: None), Prompt)
    assert kept[0]() is None
    assert running.usage()["prompt_tokens_details"] == {"cached_tokens": 7}
