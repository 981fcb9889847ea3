"""Clients that send more, smaller or slower than anybody needs: others are served, memory is flat,
and each gets an answer."""

from __future__ import annotations

import json
import re
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPResponse
from pathlib import Path

import httpx
import psutil
import pytest

from gritlm.serve.config import MAX_BODIES, ServerConfig
from gritlm.serve.http import connections, protocol
from tests.serve.conftest import Served
from tests.serve.test_connections import ASK, ended
from tests.serve.test_http_layers import raw

MIB = 2**20
HEAD = b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
HELD_UP_S = 0.5  # a tenth of what four such clients cost others before, and 100 times what is seen


@contextmanager
def attacked(served: Served, send: Callable[[socket.socket], None], clients: int) -> Iterator[None]:
    """So many clients send the same again and again, on a new connection where one was closed."""
    over = threading.Event()

    def attack() -> None:
        while not over.is_set():
            with suppress(OSError), raw(served) as client:
                client.settimeout(2)
                while not over.is_set():
                    send(client)

    threads = [threading.Thread(target=attack) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def latency(served: Served) -> float:
    """Seconds to an answer, the median of some."""
    with httpx.Client(base_url=served.url, timeout=60) as other:
        return statistics.median(
            other.get("/health/live").elapsed.total_seconds() for _ in range(15)
        )


def chunks_of_a_byte(client: socket.socket) -> None:
    client.sendall(CHUNKED)
    for _ in range(50):
        client.sendall(b"1\r\nx\r\n" * 20_000)


def segments_of_a_byte(client: socket.socket) -> None:
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.sendall(HEAD + b"Content-Length: 1000000\r\n\r\n")
    for _ in range(100_000):
        client.send(b"x")


@pytest.mark.parametrize("keys", [(), ("key",)])
@pytest.mark.parametrize("send", [chunks_of_a_byte, segments_of_a_byte])
def test_bodies_in_tiny_pieces_hold_nobody_up(serve: Callable[..., Served], send, keys):
    served = serve(ServerConfig(port=0, api_keys=keys))
    with attacked(served, send, clients=4):
        time.sleep(0.3)
        assert latency(served) < HELD_UP_S


@pytest.mark.parametrize(
    "sent", [b"1\r\nx\r\n" * 5000, b"1;" + b"x" * 200_000, b"1\r\nx\r\n0\r\nTrailer: " + b"x" * MIB]
)
def test_a_body_of_more_framing_than_content_is_refused(live: Served, sent: bytes):
    with raw(live) as client:
        client.sendall(CHUNKED + sent)
        status, error = answer(client)
        assert (status, error["code"]) == (400, "invalid_body")
        assert ended(client)


def test_a_body_in_chunks_of_a_usual_size_is_read(live: Served):
    text = json.dumps({"input": "cats " * 20_000, "truncate_prompt_tokens": -1}).encode()
    pieces = [text[at : at + 64] for at in range(0, len(text), 64)]
    headers = {"Content-Type": "application/json"}
    found = live.http.post("/v1/embeddings", content=iter(pieces), headers=headers)
    assert found.status_code == 200, found.text


def test_trailers_are_not_headers(live: Served):
    body = b'{"input": "a"}'
    with raw(live) as client:
        client.sendall(CHUNKED + b"%x\r\n%s\r\n0\r\nX-Request-Id: late\r\n\r\n" % (len(body), body))
        found = response(client)
        assert found.status == 200
        assert found.headers["x-request-id"] != "late"
        client.sendall(ASK)
        assert response(client).status == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 2**18,
        b"GET /" + b"x" * 2**18,
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 200,
    ],
)
def test_a_header_without_bound_is_refused(live: Served, sent: bytes):
    with raw(live) as client:
        with suppress(OSError):
            client.sendall(sent)
        status, error = answer(client)
        assert (status, error["code"]) == (431, "header_too_large")
        assert ended(client)


@pytest.mark.parametrize(
    "sent", [b"hello\r\n\r\n", CHUNKED + b"zz\r\n", ASK[:-2] + b"Content-Length: -1\r\n\r\n"]
)
def test_another_protocol_gets_an_error_of_the_same_shape(live: Served, sent: bytes):
    with raw(live) as client:
        client.sendall(sent)
        status, error = answer(client)
        assert (status, error["code"]) == (400, "invalid_http")


def test_an_answer_before_the_body_was_read_closes_the_connection(serve: Callable[..., Served]):
    served = serve(ServerConfig(port=0, api_keys=("key",), max_body_bytes=MIB))
    for head, status in (
        (HEAD, 401),
        (HEAD + b"Authorization: Bearer key\r\nOrigin: https://evil.example\r\n", 403),
        (HEAD.replace(b"localhost", b"evil.example"), 421),
        (HEAD + b"Authorization: Bearer key\r\nX: ", 413),
    ):
        with raw(served) as client:
            size = 10 * MIB if status == 413 else MIB
            head = head.removesuffix(b"X: ")
            client.sendall(head + b"Content-Length: %d\r\n\r\n" % size)
            told = client.recv(4096)
            assert told.startswith(b"HTTP/1.1 %d " % status)
            assert b"\r\nconnection: close\r\n" in told.lower()
            client.settimeout(2)
            assert ended(client)  # the server's side, while the rest of the body may come


def test_who_sends_everything_before_it_reads_gets_the_answer(serve: Callable[..., Served]):
    served = serve(ServerConfig(port=0, api_keys=("key",)))
    with raw(served) as client:
        client.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % (8 * MIB) + b"x" * (8 * MIB))
        assert answer(client)[1]["code"] == "invalid_api_key"


def test_input_behind_an_answer_is_thrown_away_for_a_while_only(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(protocol, "LINGER_S", 0.3)
    served = serve(ServerConfig(port=0, api_keys=("key",)))
    with raw(served) as client:
        client.sendall(HEAD + b"Content-Length: 1000000000\r\n\r\n")
        begun = time.monotonic()
        with suppress(OSError):
            while time.monotonic() - begun < 10:
                client.sendall(b"x" * 1000)
                time.sleep(0.01)
        assert time.monotonic() - begun < 5


def test_a_path_that_needs_no_key_needs_one_to_be_written_to(serve: Callable[..., Served]):
    served = serve(ServerConfig(port=0, api_keys=("key",)))
    with httpx.Client(base_url=served.url) as bare:
        for path in ("/", "/health", "/health/live"):
            assert bare.get(path).status_code == 200
            for method in ("POST", "PUT", "DELETE", "OPTIONS"):
                assert bare.request(method, path).status_code == 401, (method, path)
        assert bare.head("/").status_code == 200


def test_all_bodies_together_have_a_bound(serve: Callable[..., Served]):
    served = serve(ServerConfig(port=0, max_body_bytes=MIB))
    with ExitStack() as stack:
        for _ in range(MAX_BODIES):
            client = stack.enter_context(raw(served))
            client.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % MIB)
        large = {"input": "x" * (MIB - 100)}
        wait_for(lambda: served.http.post("/v1/embeddings", json=large).status_code == 503)
        refused = served.http.post("/v1/embeddings", json=large)
        assert refused.json()["error"]["code"] == "overloaded"
        assert refused.headers["retry-after"] == "1"
        assert f"{MAX_BODIES * MIB:,} bytes" in refused.json()["error"]["message"]
        assert served.http.post("/v1/embeddings", json={"input": "small"}).status_code == 200
    wait_for(lambda: served.http.post("/v1/embeddings", json=large).status_code == 400)


def test_memory_stays_flat_under_bodies_that_nobody_asked_for(serve: Callable[..., Served]):
    served = serve(ServerConfig(port=0))
    process, begun = psutil.Process(), threading.Barrier(61)
    before = process.memory_info().rss

    def send() -> None:
        with raw(served) as client, suppress(OSError):
            head = HEAD.replace(b"/v1/embeddings", b"/health")
            client.sendall(head + b"Content-Length: %d\r\n\r\n" % (8 * MIB))
            for _ in range(127):
                client.sendall(b"x" * 2**16)
            with suppress(threading.BrokenBarrierError):
                begun.wait(10)

    threads = [threading.Thread(target=send) for _ in range(60)]
    for thread in threads:
        thread.start()
    with suppress(threading.BrokenBarrierError):
        begun.wait(10)
    grown = process.memory_info().rss - before
    for thread in threads:
        thread.join()
    assert grown < 250 * MIB  # 480 are sent


def test_a_connection_may_rest_between_two_requests(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(connections, "HEADER_S", 0.3)
    served = serve()
    assert served.server.config.timeout_keep_alive == connections.KEEP_ALIVE_S == 75
    with raw(served) as client:
        for _ in range(2):
            client.sendall(ASK)
            assert response(client).status == 200
            time.sleep(1.2)
        client.sendall(b"\r\n")  # as little as that is the beginning of a request
        assert ended(client)


def test_a_proxy_closes_its_connections_before_the_server_does():
    text = Path(__file__).parents[2].joinpath("deploy", "nginx.conf").read_text("utf-8")
    (upstream,) = re.findall(r"upstream gritlm \{(.*?)\n\}", text, re.DOTALL)
    (seconds,) = re.findall(r"^ *keepalive_timeout (\d+)s;", upstream, re.MULTILINE)
    assert int(seconds) < connections.KEEP_ALIVE_S


def test_small_answers_do_not_wait_for_more(live: Served):
    live.http.get("/health/live")
    times = [live.http.get("/health/live").elapsed.total_seconds() for _ in range(15)]
    assert statistics.median(times) < 0.03  # 0.04 with Nagle's algorithm and late acknowledgements


@pytest.mark.parametrize(
    "length", [b"Content-Length: 14\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\ne\r\n"]
)
def test_a_request_that_offers_http2_is_answered(live: Served, length: bytes):
    """Java's client offers it with its first request."""
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEA\r\n"
    end = b"\r\n0\r\n\r\n" if b"chunked" in length else b""
    whole = HEAD + offer + length + b'{"input": "a"}' + end
    for cut in (len(whole), len(whole) - 4, len(HEAD + offer + length)):
        with raw(live) as client:
            client.sendall(ASK.replace(b"Host:", offer + b"Host:"))
            assert response(client).status == 200
            client.sendall(whole[:cut])
            time.sleep(0.05)
            client.sendall(whole[cut:] + ASK)  # no byte of the body is taken for a request
            assert response(client).status == 200
            assert ended(client)


def answer(client: socket.socket) -> tuple[int, dict[str, str]]:
    """Status and error of an answer that ends with the connection."""
    told = b""
    with suppress(OSError):
        while part := client.recv(4096):
            told += part
    head, _, body = told.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]


def response(client: socket.socket) -> HTTPResponse:
    """An answer, read to its end."""
    found = HTTPResponse(client)
    found.begin()
    found.read()
    return found


def wait_for(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 5
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)
