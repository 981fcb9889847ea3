"""Downloads: public addresses only, no redirects, limits on size."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from gritlm.errors import InputError
from gritlm.lm.media import web
from gritlm.lm.media.files import MediaRules, file_bytes
from gritlm.lm.media.inputs import as_parts


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "http://10.0.0.1/")
            self.end_headers()
            return
        if self.path in ("/slow-header", "/slow-content"):
            self.send_response(200)
            if self.path == "/slow-content":
                self.end_headers()
            self.flush_headers()
            with suppress(OSError):  # the client hangs up
                for _ in range(60):
                    self.wfile.write(b"x")
                    time.sleep(0.1)
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"x" * 5000)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    made = HTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    made.server_close()


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "192.168.0.1",
        "169.254.169.254",
        "0.0.0.0",
        "100.64.0.1",
        "224.0.0.1",
        "[::1]",
        "[fd00::1]",
        "[::ffff:10.0.0.1]",
        "[64:ff9b::a00:1]",
        "[64:ff9b:1::7f00:1]",
        "[::127.0.0.1]",
        "[::ffff:0:127.0.0.1]",
        "[fec0::1]",
        "[2002:a00:1::]",
        "[2002:7f00:1::]",
    ],
)
def test_a_private_address_is_refused(address):
    with pytest.raises(InputError, match="has the private address"):
        web.fetch(f"http://{address}/x.png", name="the image", most_bytes=100)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "2002:808:808::"]
)
def test_a_public_address_is_known(address):
    assert web._is_public(address)


def test_a_name_with_one_private_address_is_refused(monkeypatch):
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, 80)) for ip in ("8.8.8.8", "10.0.0.1")
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(InputError, match=r"private address 10\.0\.0\.1"):
        web.fetch("http://example.org/x.png", name="the image", most_bytes=100)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://user@example.org/", "not a valid address"),
        ("http:///x", "not a valid address"),
        ("http://example.org:99999/", "not a valid http"),
        ("ftp://example.org/", "not a valid http"),
        (f"http://{'a' * 70}.org/", "not a valid http"),
    ],
)
def test_an_invalid_address_is_refused(url, said):
    with pytest.raises(InputError, match=said):
        web.fetch(url, name="the image", most_bytes=100)


def test_content_is_read_up_to_a_limit_and_redirects_are_refused(server, monkeypatch):
    monkeypatch.setattr(web, "_is_public", lambda address: address == "127.0.0.1")
    assert web.fetch(server, name="the image", most_bytes=5000) == b"x" * 5000
    with pytest.raises(InputError, match="more than 4,999 bytes"):
        web.fetch(server, name="the image", most_bytes=4999)
    with pytest.raises(InputError, match="answers with status 302; expected 200, no redirect"):
        web.fetch(f"{server}/moved", name="the image", most_bytes=5000)
    (part,) = as_parts({"image": server}, "it", MediaRules(web=True))
    assert file_bytes(part.source, "the image", MediaRules(web=True)) == b"x" * 5000


def test_a_host_that_does_not_answer_is_named(monkeypatch):
    monkeypatch.setattr(web, "_is_public", lambda _: True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(InputError, match="cannot be fetched"):
        web.fetch(f"http://127.0.0.1:{port}/", name="the image", most_bytes=100)


@pytest.mark.parametrize("path", ["/slow-header", "/slow-content"])
def test_one_deadline_holds_for_headers_and_content(server, monkeypatch, path):
    monkeypatch.setattr(web, "_is_public", lambda _: True)
    started = time.monotonic()
    with pytest.raises(InputError, match="takes more than 10 s to answer, or 60 s in all; send"):
        web.fetch(server + path, name="the image", most_bytes=5000, seconds=0.5)
    assert time.monotonic() - started < 3


def test_a_host_that_accepts_and_is_silent_is_left(monkeypatch):
    monkeypatch.setattr(web, "_is_public", lambda _: True)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for scheme in ("http", "https"):
            started = time.monotonic()
            url = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}/"
            with pytest.raises(InputError, match="takes more than 10 s to answer"):
                web.fetch(url, name="the image", most_bytes=100, seconds=0.3)
            assert time.monotonic() - started < 3
