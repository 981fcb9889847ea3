"""Fuzzed requests to every route, and malformed HTTP; each is determined by seed and number."""

from __future__ import annotations

import copy
import http.client
import json
import random
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count as counted
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
from benchmarks.attack.watch import resident
from benchmarks.serving.server import Server

CLIENTS = 6
PATIENCE_S = 60.0
ALLOWED_ABOVE_500 = {503, 507}  # overloaded or draining; a full disk
GROWTH = 0.10
SLACK_BYTES = 40e6
LISTED = 10

# Bodies of each route that takes one; a route without one here gets an empty object.
BODIES: dict[str, list[dict[str, Any]]] = json.loads(
    (Path(__file__).parent / "bodies.json").read_text(encoding="utf-8")
)
RARE = {"/v1/rag/documents": 0.25}  # it writes to disk

# Written into the JSON as they are: not all of them can come out of json.dumps.
HOSTILE = (
    "null",
    "true",
    "false",
    "0",
    "-1",
    "1",
    "1e400",
    "-1e400",
    "NaN",
    "Infinity",
    "1e-400",
    "9223372036854775808",
    "-9223372036854775809",
    "1" + "0" * 400,
    "0.1",
    "3.0",
    '""',
    '" "',
    '"\\ud800"',
    '"\\u0000"',
    '"\\u001b[31m"',
    '"' + "x" * 5000 + '"',
    '"NaN"',
    '"-1"',
    "[]",
    "{}",
    "[[]]",
    "[null]",
    "[" * 60 + "]" * 60,
    "[" * 5000 + "]" * 5000,
    '{"a":' * 40 + "1" + "}" * 40,
    "[1,2,3]",
    '["a", 1, null]',
    '{"role":"user"}',
    "[" + "0," * 3000 + "0]",
    '"\\u202e\\u200b"',
    '"😀"',
    '{"$ref":"#"}',
    '"../../etc/passwd"',
    "[[1],[2]]",
    "-0.0",
    "1.7976931348623157e308",
)
TYPES = (
    "application/json",
    "application/json; charset=utf-16",
    "text/plain",
    "multipart/form-data",
    "application/x-www-form-urlencoded",
    "",
    "application/json;;;",
    "x" * 300,
)
METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "BREW")
MALFORMED: tuple[bytes, ...] = (
    b"GET / HTTP/9.9\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET /v1/models HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\n\r\n",
    b"POST /v1/embeddings HTTP/1.1\r\nHost: %h\r\nContent-Length: -5\r\n\r\n",
    b"POST /v1/embeddings HTTP/1.1\r\nHost: %h\r\nContent-Length: 1e9\r\n\r\n{}",
    b"POST /v1/embeddings HTTP/1.1\r\nHost: %h\r\nContent-Length: 99999999999999999999\r\n\r\n",
    b"POST /v1/embeddings HTTP/1.1\r\nHost: %h\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    b"POST /v1/embeddings HTTP/1.1\r\nHost: %h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST /v1/embeddings HTTP/1.1\r\nHost: %h\r\nTransfer-Encoding: chunked\r\n"
    b"Content-Length: 2\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    b"POST /v1/embeddings HTTP/1.1\r\nHost: %h\r\nTransfer-Encoding: gzip\r\n\r\n{}",
    b"POST /v1/embeddings HTTP/1.1\r\nHost: %h\r\nExpect: 100-continue\r\n\r\n",
    b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: %h\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: %h\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: %h\r\n" + b"X: a\r\n" * 3000 + b"\r\n",
    b"GET /\xff\xfe HTTP/1.1\r\nHost: %h\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: %h\r\nX\x00Y: a\r\n\r\n",
    b"GET /%%zz%%00 HTTP/1.1\r\nHost: %h\r\n\r\n",
    b"CONNECT a:1 HTTP/1.1\r\nHost: %h\r\n\r\n",
    b"GET http://b.test/ HTTP/1.1\r\nHost: %h\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: %h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"\r\n\r\n\r\n",
    b"GET / HTTP/1.1\nHost: %h\n\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
)


@dataclass
class Found:
    """The answers to all fuzzed requests.

    Attributes:
        early, late: resident bytes of the server after a fifth, and at the end.
        broken: statuses that may not come, with the number of the request, and memory that grew.
    """

    routes: int
    statuses: Counter[int] = field(default_factory=Counter)
    early: int = 0
    late: int = 0
    broken: list[str] = field(default_factory=list)
    bad: int = 0


@dataclass(frozen=True)
class Request:
    """Fuzzed request; ``raw`` is sent unchanged, on its own connection."""

    method: str = ""
    path: str = ""
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes = b""


def run(server: Server, key: str, *, count: int, first: int, seed: int) -> Found:
    """Send the requests ``first`` to ``first + count`` with several concurrent clients."""
    headers = {"Authorization": f"Bearer {key}"}
    described = httpx.get(f"{server.url}/openapi.json", headers=headers).json()
    routes = [
        (method.upper(), path) for path, methods in described["paths"].items() for method in methods
    ]
    found = Found(len(routes))
    found.broken += _refused(server.url, headers)
    lock = threading.Lock()
    numbers = iter(range(first, first + count))
    usage = server.usage

    def take() -> int | None:
        with lock:
            number = next(numbers, None)
            if number is not None and number - first == count // 5:
                found.early = resident(usage)
            return number

    def client() -> None:
        with _Connection(server.url) as connection:
            for number in iter(take, None):
                request = made(random.Random(f"{seed}:{number}"), routes, key)
                status, text = connection.send(request)
                with lock:
                    _note(found, number, request, status, text)

    clients = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for each in clients:
        each.start()
    for each in clients:
        each.join()
    found.late = resident(usage)
    if found.late > found.early * (1 + GROWTH) + SLACK_BYTES:
        found.broken.append(
            f"memory grew from {found.early / 1e6:.0f} to {found.late / 1e6:.0f} MB"
        )
    if found.bad > LISTED:
        found.broken.append(f"and {found.bad - LISTED} more")
    return found


def _refused(url: str, headers: dict[str, str]) -> list[str]:
    """The bodies that are refused before anything is changed: their mutants would test little."""
    broken = []
    for path, bodies in BODIES.items():
        for number, body in enumerate(bodies):
            response = httpx.post(url + path, json=body, headers=headers, timeout=PATIENCE_S)
            if response.status_code != 200:
                broken.append(f"{path} body {number}: {response.text[:200]}")
    return broken


def _note(found: Found, number: int, request: Request, status: int, text: str) -> None:
    found.statuses[status] += 1
    if (status < 500 and status != -1) or status in ALLOWED_ABOVE_500:
        return
    found.bad += 1
    if found.bad <= LISTED:
        sent = request.raw[:60] or f"{request.method} {request.path[:60]} {request.body!r:.200}"
        found.broken.append(f"request {number}: {status} {text[:120]} to {sent!r}")


def made(draw: random.Random, routes: list[tuple[str, str]], key: str) -> Request:
    """A request that follows from the state of ``draw``."""
    if draw.random() < 0.04:
        return Request(raw=_raw(draw))
    weights = [RARE.get(path, 1.0) if method == "POST" else 1.0 for method, path in routes]
    method, path = draw.choices(routes, weights)[0]
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    body = _body(draw, path) if method in ("POST", "PUT", "PATCH") else None
    if draw.random() < 0.05:
        method = draw.choice(METHODS)
    if draw.random() < 0.05:
        headers["Content-Type"] = draw.choice(TYPES)
    if draw.random() < 0.03:
        headers["Authorization"] = draw.choice(("", "Bearer", "Bearer no", "Basic YTpi", "é"))
    if draw.random() < 0.03:
        headers["X-Request-Id"] = draw.choice(("a" * 5000, "é", "a b", ""))
    return Request(method, _path(draw, path), body, headers)


def _path(draw: random.Random, path: str) -> str:
    names = ("d", ".", "..", "a/b", "x" * 600, "é", "%", "\x00", " ", "gritlm", "../../x")
    while "{" in path:
        before, _, rest = path.partition("{")
        path = before + quote(draw.choice(names), safe="") + rest.partition("}")[2]
    if draw.random() < 0.08:
        values = ("-1", "0", "1", "99999999999999999999", "x", "%00", "%ff", "d", "", "1.5", "NaN")
        pairs = (f"{draw.choice(('limit', 'after', 'q'))}={draw.choice(values)}" for _ in range(2))
        path += f"?{'&'.join(pairs)}"
    return path


def _body(draw: random.Random, path: str) -> bytes:
    """A valid body with some of its values replaced, or its text damaged."""
    body = copy.deepcopy(draw.choice(BODIES.get(path, [{}])))
    hostile: dict[str, str] = {}
    for _ in range(draw.choice((0, 1, 1, 1, 2, 3))):
        _mutate(draw, body, hostile)
    text = json.dumps(body)
    for mark, value in hostile.items():
        text = text.replace(json.dumps(mark), value)
    data = text.encode("utf-8", "surrogatepass")
    return _damaged(draw, data) if draw.random() < 0.06 else data


def _mutate(draw: random.Random, body: dict[str, Any], hostile: dict[str, str]) -> None:
    holder, name = draw.choice(list(_places(body)) or [(body, "x")])
    mark = f"<<{len(hostile)}>>"
    kind = draw.random()
    if kind < 0.65:
        hostile[mark] = draw.choice(HOSTILE)
        holder[name] = mark
    elif kind < 0.8 and isinstance(holder, dict):
        holder.pop(name, None)
    else:
        hostile[mark] = draw.choice(HOSTILE)
        body[draw.choice(("extra", "", "model", "user", "é", "x" * 300, "n", "tools"))] = mark


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    names = list(value) if isinstance(value, dict) else range(len(value))
    for name in names:
        yield value, name
        if isinstance(value[name], (dict, list)):
            yield from _places(value[name])


def _damaged(draw: random.Random, data: bytes) -> bytes:
    at = draw.randrange(len(data) + 1)
    ways: tuple[Callable[[], bytes], ...] = (
        lambda: data[:at],
        lambda: data[:at] + draw.randbytes(3) + data[at:],
        lambda: b"\xef\xbb\xbf" + data,
        lambda: data.decode("utf-8", "ignore").encode("utf-16"),
        lambda: data + data,
        lambda: b"",
        lambda: draw.randbytes(200),
        lambda: data[:-1] + b"," + data[1:],
    )
    return draw.choice(ways)()


def _raw(draw: random.Random) -> bytes:
    if draw.random() < 0.7:
        return draw.choice(MALFORMED)
    whole = bytearray(b"POST /v1/embeddings HTTP/1.1\r\nHost: %h\r\nContent-Length: 2\r\n\r\n{}")
    for _ in range(draw.randint(1, 4)):
        whole[draw.randrange(len(whole))] = draw.randrange(256)
    return bytes(whole)


class _Connection:
    """Client that keeps its connection alive."""

    def __init__(self, url: str) -> None:
        self._place = urlsplit(url)
        self._http = http.client.HTTPConnection(
            str(self._place.hostname), self._place.port, timeout=PATIENCE_S
        )

    def __enter__(self) -> _Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def send(self, request: Request) -> tuple[int, str]:
        """Return status (0: closed without one, -1: none in time) and text of an answer."""
        if request.raw:
            return self._send_raw(request.raw)
        for again in counted():
            try:
                self._http.putrequest(request.method, request.path, skip_accept_encoding=True)
                for name, value in request.headers.items():
                    self._http.putheader(name, value.encode("utf-8"))
                if request.body is not None:
                    self._http.putheader("Content-Length", str(len(request.body)))
                self._http.endheaders(request.body)
                response = self._http.getresponse()
                return response.status, response.read().decode("utf-8", "replace")
            except TimeoutError:
                self._http.close()
                return -1, "no answer in time"
            except (OSError, http.client.HTTPException) as error:
                self._http.close()
                if again:  # an idle connection may have been closed; a new one may not
                    return 0, str(error)
        raise AssertionError("the loop ends by returning")

    def _send_raw(self, raw: bytes) -> tuple[int, str]:
        address = (str(self._place.hostname), self._place.port or 80)
        try:
            with socket.create_connection(address, timeout=1.0) as connection:
                connection.sendall(raw.replace(b"%h", self._place.netloc.encode()))
                connection.shutdown(socket.SHUT_WR)
                line = connection.recv(65536).split(b"\r\n", 1)[0]
        except OSError:
            return 0, "closed"
        words = line.split()
        known = len(words) > 1 and words[1].isdigit()
        return (int(words[1]) if known else 0), line.decode("latin-1")
