"""The client of documents on a server: the same passages and answers as the engine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from gritlm import SamplingParams
from gritlm.errors import InputError
from gritlm.integrations import RagClient
from gritlm.integrations.haystack.saved_components import restored_store, saved_store
from gritlm.rag import AnswerOptions, Recompute, Search
from gritlm.serve import ServerConfig, StoreAt
from tests.rag.conftest import QUESTION
from tests.serve.conftest import served


def test_a_search_finds_what_the_engine_finds(client, engine):
    search = Search(top_k=4)
    there = client.find(QUESTION, search)
    here = engine.find(QUESTION, search)
    assert [hit.passage.id for hit in there] == [hit.passage.id for hit in here]
    assert [hit.passage.metadata for hit in there] == [hit.passage.metadata for hit in here]
    assert [hit.score for hit in there] == pytest.approx([hit.score for hit in here], abs=1e-5)


def test_a_filter_is_sent(client):
    found = client.find(QUESTION, Search(top_k=5, filter={"even": True}))
    assert len(found) == 3
    assert all(hit.passage.metadata["even"] for hit in found)


def test_an_answer_is_that_of_the_engine(client, engine):
    there = client.answer(QUESTION, max_new_tokens=12, top_k=2)
    here = engine.answer(QUESTION, max_new_tokens=12, top_k=2)
    assert there.text == here.text
    assert there.text
    assert [each.id for each in there.sources] == [each.id for each in here.sources]
    assert [each.used for each in there.sources] == [each.used for each in here.sources]
    assert there.trace.tokens_reused == here.trace.tokens_reused > 0
    assert there.trace.mode == "doc"


def test_a_stream_has_its_sources_first_and_its_pieces_one_by_one(client):
    stream = client.stream(QUESTION, max_new_tokens=12)
    assert stream.sources
    assert len(list(stream)) > 1


def test_a_wrong_key_is_one_error_that_names_the_address(client):
    wrong = RagClient(client.base_url, api_key="wrong")
    with pytest.raises(RuntimeError, match=rf"{client.base_url}/v1/rag/search: status 401: "):
        wrong.find(QUESTION, Search())
    assert "wrong" not in repr(wrong)


def test_a_server_that_is_not_there_is_one_error():
    with pytest.raises(RuntimeError, match=r"did not answer: .*; is gritlm serve running\?"):
        RagClient("http://127.0.0.1:9").find(QUESTION, Search())


@contextmanager
def other_server(body: bytes) -> Iterator[str]:
    """A server that answers each request with these bytes; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("body", [b"<html>", b"{}", b"[]", b"", b'{"data": [{}]}'])
def test_another_server_is_one_error(body):
    with other_server(body) as url:
        other = RagClient(url)
        for call in (lambda: other.find(QUESTION, Search()), lambda: other.answer(QUESTION)):
            with pytest.raises(RuntimeError, match=rf"{url} is no gritlm server, or of another"):
                call()


def test_the_address_may_end_in_v1(client):
    assert RagClient(f"{client.base_url}/v1/", api_key="secret").find(QUESTION, Search())


def test_a_store_is_named(grit, tmp_path):
    stores = [StoreAt(tmp_path / name, name=name) for name in ("law", "food")]
    with served(grit, ServerConfig(port=0), None, *stores) as live:
        for store in stores:
            body = {"store": store.name, "documents": [{"id": store.name, "text": "Some text."}]}
            live.http.post("/v1/rag/documents", json=body).raise_for_status()
            named = RagClient(live.url, store=store.name)
            assert [hit.passage.document_id for hit in named.find("Some?", Search())] == [
                store.name
            ]
            answer = named.answer("Some?", max_new_tokens=2)
            assert [source.document_id for source in answer.sources] == [store.name]
            assert restored_store(saved_store(named)) == named
        with pytest.raises(RuntimeError, match="'store' is missing; expected law or food"):
            RagClient(live.url).find("Some?", Search())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (AnswerOptions(recompute=Recompute(tokens=3)), "recompute cannot be set over HTTP"),
        (AnswerOptions(filter="even = true"), "filter='even = true' is a condition in SQL"),
        (AnswerOptions(sampling=SamplingParams(top_k=3)), r"sampling\.top_k=3 cannot be set"),
    ],
)
def test_a_setting_that_requests_do_not_have_is_refused(client, options, message):
    with pytest.raises(InputError, match=message):
        client.answer(QUESTION, options)


def test_passages_of_an_earlier_search_are_refused(client, engine):
    hits = engine.retrieve(QUESTION)
    with pytest.raises(InputError, match="3 passages were passed to a server"):
        client.stream(QUESTION, hits=hits)


def test_an_address_without_scheme_is_refused():
    with pytest.raises(InputError, match=r"base_url='127\.0\.0\.1:8000'; expected http://host"):
        RagClient("127.0.0.1:8000")
