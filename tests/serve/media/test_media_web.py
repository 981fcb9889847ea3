"""Images that a request names by an address, and the memory that images of requests hold."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from gritlm.lm.media import web
from gritlm.serve.config import ServerConfig
from gritlm.serve.engine.errors import OverloadedError
from gritlm.serve.media_decoding import MediaMemory
from tests.serve.conftest import Served, served
from tests.serve.media.conftest import asked, coded, image_part, png

CHAT = "/v1/chat/completions"


class Pictures(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "http://10.0.0.1/")
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(png() if self.path == "/small.png" else bytes(2**20 + 1))

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture(scope="module")
def pictures() -> Iterator[str]:
    made = HTTPServer(("127.0.0.1", 0), Pictures)
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    made.server_close()


@pytest.fixture(scope="module")
def open_server(models) -> Iterator[Served]:
    settings = ServerConfig(port=0, allow_media_urls=True, max_body_bytes=2**20)
    with served(models("smolvlm")[0], settings) as found:
        yield found


def ask(server: Served, part: dict[str, Any]) -> Any:
    body = {"messages": asked(part), "max_tokens": 6, "temperature": 0}
    return server.http.post(CHAT, json=body)


def named(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


@pytest.mark.parametrize("host", ["127.0.0.1", "169.254.169.254", "[::1]", "[::ffff:10.0.0.1]"])
def test_a_private_address_is_refused(open_server: Served, host: str):
    response = ask(open_server, named(f"http://{host}/small.png"))
    assert response.status_code == 400
    assert "has the private address" in response.json()["error"]["message"]
    embedded = open_server.http.post("/v1/embeddings", json={"input": {"image": f"http://{host}/"}})
    assert embedded.status_code == 400
    assert "has the private address" in embedded.json()["error"]["message"]


def test_a_public_address_is_fetched(open_server: Served, pictures: str, monkeypatch):
    monkeypatch.setattr(web, "_is_public", lambda address: address == "127.0.0.1")
    found = ask(open_server, named(f"{pictures}/small.png"))
    assert found.status_code == 200, found.text
    sent = ask(open_server, image_part(png()))
    assert found.json()["choices"] == sent.json()["choices"]


@pytest.mark.parametrize(
    ("path", "said"),
    [("/moved", "answers with status 302"), ("/large", "has more than 1,048,576 bytes")],
)
def test_redirects_and_large_files_are_refused(open_server, pictures, monkeypatch, path, said):
    monkeypatch.setattr(web, "_is_public", lambda address: address == "127.0.0.1")
    response = ask(open_server, named(pictures + path))
    assert response.status_code == 400
    assert said in response.json()["error"]["message"]


def test_the_memory_of_a_request_is_free_when_it_has_ended(open_server: Served):
    assert ask(open_server, image_part()).status_code == 200
    text = {"messages": asked(text="Hello"), "max_tokens": 1}
    end = time.monotonic() + 10
    while held := open_server.service.decoding._memory.nbytes:
        assert time.monotonic() < end, f"{held} bytes are held"
        open_server.http.post(CHAT, json=text)
        gc.collect()


def test_images_of_all_requests_have_a_bound(models):
    _, oracle = models("smolvlm")
    (found,) = oracle.chat_prompt(asked(image_part())).media
    size = sum(value.nbytes for value in found.inputs.values())
    with pytest.raises(OverloadedError, match=f"exceed the server's limit of {size - 1:,} bytes"):
        MediaMemory(size - 1).add(found)
    memory = MediaMemory(size)
    memory.add(found)
    assert memory.nbytes == size
    (other,) = oracle.chat_prompt(asked(image_part(png(1)))).media
    with pytest.raises(OverloadedError, match="exceed the server's limit"):
        memory.add(other)
    del found
    gc.collect()
    memory.add(other)


def test_two_threads_cannot_pass_the_bound_together(models):
    _, oracle = models("smolvlm")
    found = [oracle.chat_prompt(asked(image_part(png(seed)))).media[0] for seed in range(8)]
    memory = MediaMemory(sum(value.nbytes for value in found[0].inputs.values()))
    with ThreadPoolExecutor(8) as pool:
        errors = [task.exception() for task in [pool.submit(memory.add, each) for each in found]]
    assert [type(error) for error in errors].count(OverloadedError) == 7


def test_a_full_memory_is_reported_as_overload(open_server: Served, monkeypatch):
    monkeypatch.setattr(open_server.service.decoding._memory, "_most", 0)
    response = ask(open_server, image_part())
    assert response.status_code == 429
    assert response.headers["Retry-After"] == "5"
    embedded = open_server.http.post("/v1/embeddings", json={"input": {"image": coded(png())}})
    assert embedded.status_code == 429
