"""Connections that are too many, or that wait for their clients."""

from __future__ import annotations

import socket
from collections.abc import Callable
from time import sleep

import pytest

from gritlm.serve.config import ServerConfig
from gritlm.serve.http import connections
from tests.serve.conftest import Served
from tests.serve.test_http_layers import raw

ASK = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"


def test_one_connection_too_many_is_told_so(serve: Callable[..., Served]):
    served = serve(ServerConfig(port=0, max_connections=2))
    with raw(served) as one, raw(served) as two:
        for each in (one, two):
            each.sendall(ASK)
            assert each.recv(64).startswith(b"HTTP/1.1 200 ")
        with raw(served) as third:
            told = third.recv(4096)
    assert told.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 1" in told
    assert b'"code":"overloaded"' in told
    sleep(0.05)  # the server sees that they are gone
    assert served.http.get("/health/live").status_code == 200


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: loc", ASK + b"GET / HTTP/1.1\r\n"])
def test_a_connection_whose_header_does_not_come_is_closed(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch, sent: bytes
):
    monkeypatch.setattr(connections, "HEADER_S", 0.3)
    with raw(serve()) as slow:
        slow.sendall(sent)
        assert ended(slow)


def test_a_client_that_does_not_read_is_cut_off(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(connections, "WRITE_S", 0.3)
    served = serve()
    monkeypatch.setattr(served.service.first.prompts, "decode", lambda _: "x" * 2**24)
    head = (
        b"POST /detokenize HTTP/1.1",
        b"Host: localhost",
        b"Content-Type: application/json",
        b"Content-Length: 14",
        b"",
        b'{"tokens":[5]}',
    )
    with raw(served) as deaf:
        deaf.sendall(b"\r\n".join(head))
        assert deaf.recv(1)  # it is on its way
        for _ in range(100):
            if not served.server.server_state.connections:
                break
            sleep(0.05)
        assert not served.server.server_state.connections
    assert served.http.get("/health/live").status_code == 200


def ended(client: socket.socket) -> bool:
    """Whether the server closes the connection; what it says before is read."""
    try:
        while client.recv(4096):
            continue
    except ConnectionResetError:
        return True
    return True
