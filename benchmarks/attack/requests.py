"""Hostile requests. Each function runs in its own process and is bounded in time."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import quote, urlsplit

KEY = "attack"
CHAT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"
DOCUMENTS = "/v1/rag/documents"
SEARCH = "/v1/rag/search"
ANSWER = "/v1/rag/answer"
POSTS = (CHAT, EMBEDDINGS, DOCUMENTS, SEARCH, ANSWER, "/v1/completions", "/v1/rerank", "/tokenize")
PATIENCE_S = 60.0
BODY_BYTES = 7_500_000  # just below the largest body that the server takes
CLOSED = 0  # in place of a status: the server closed the connection without one


@dataclass(frozen=True)
class Reply:
    """Response of the server.

    Attributes:
        status: HTTP status; 0 for a connection closed without a response, -1 for a timeout.
        seconds: time until the response.
        size: bytes of its body.
        text: start of its body.
    """

    status: int
    seconds: float
    size: int = 0
    text: str = ""


@dataclass
class Result:
    """Result of an attack: responses of the server, and broken promises."""

    replies: list[Reply] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def ask(
    url: str,
    method: str,
    path: str,
    body: bytes | dict[str, Any] | None = None,
    *,
    key: str | None = KEY,
    timeout_s: float = PATIENCE_S,
    keep: int = 2000,
) -> Reply:
    """Send one request on a connection of its own; never raises for what the server does."""
    place = urlsplit(url)
    data = json.dumps(body).encode() if isinstance(body, dict) else body
    headers = {"Content-Type": "application/json"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=timeout_s)
    began = time.perf_counter()
    try:
        with suppress(BrokenPipeError, ConnectionResetError):  # it may have answered already
            connection.request(method, path, body=data, headers=headers)
        response = connection.getresponse()
        text = response.read()
        seconds = time.perf_counter() - began
        return Reply(response.status, seconds, len(text), text[:keep].decode(errors="replace"))
    except TimeoutError:
        return Reply(-1, time.perf_counter() - began)
    except (OSError, http.client.HTTPException, AttributeError):
        return Reply(CLOSED, time.perf_counter() - began)
    finally:
        connection.close()


def together(jobs: Sequence[Callable[[], Reply]]) -> list[Reply]:
    """All at the same time, each in a thread."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        return [each.result() for each in [pool.submit(job) for job in jobs]]


def tiny_chunks(url: str, connections: int) -> Result:
    """Bodies in chunks of one byte, as fast as the server takes them, without a key."""
    head = (
        f"POST {EMBEDDINGS} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\n"
        "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    ).encode()

    def one() -> Reply:
        began = time.perf_counter()
        chunk = b"1\r\nx\r\n" * 20_000
        with _connected(url) as connection:
            try:
                connection.sendall(head)
                while time.perf_counter() - began < 8.0:
                    connection.sendall(chunk)
            except OSError:
                pass
            return _answer(connection, began)

    return Result(together([one] * connections))


def bodies_without_key(url: str) -> Result:
    """200 connections, each with a body of 8 MB for a path that takes none, without a key."""
    body = b" " * 8_000_000
    return Result(together([lambda: ask(url, "POST", "/health", body, key=None)] * 200))


def wide_filter(url: str, names: int, values: int, known: bool) -> Result:
    """A search with many names and values in its filter."""
    tags = {f"n{number}": "v" for number in range(16)}
    ask(url, "POST", DOCUMENTS, {"documents": [{"text": "A ball is red.", "metadata": tags}]})
    prefix = "n" if known else "unknown"
    wanted = {f"{prefix}{n}": [f"v{v}" for v in range(values)] for n in range(names)}
    return Result([ask(url, "POST", SEARCH, {"question": "ball?", "filter": wanted})])


def embedding(url: str, texts: int) -> Result:
    """Embed texts of about 920 tokens each in one request: 2,000 are 1.8 million tokens."""
    return Result([ask(url, "POST", EMBEDDINGS, {"input": ["the ball is red " * 230] * texts})])


def documents(url: str, each: int) -> Result:
    """Add documents of 168 KB each by two concurrent requests.

    Args:
        url: address of the server.
        each: number of documents of a request.
    """
    text = "Cats sleep most of the day. " * 6000
    bodies = [
        {"documents": [{"id": f"{side}{n}", "text": f"{n} {text}"} for n in range(each)]}
        for side in ("a", "b")
    ]
    return Result(together([partial(ask, url, "POST", DOCUMENTS, body) for body in bodies]))


def long_question(url: str) -> Result:
    """A question of 7 MB, to search and to answer."""
    body = {"question": "the ball " * 780_000}
    return Result([ask(url, "POST", path, body) for path in (SEARCH, ANSWER)])


def large_metadata(url: str) -> Result:
    """Metadata of 4 MB; then as much as is taken, listed and found."""
    text = "Water boils at 100 degrees. " * 4300
    result = Result()
    big = {f"name{n}": "x" * 40_000 for n in range(100)}
    document = {"id": "big", "text": text, "metadata": big}
    result.replies.append(ask(url, "POST", DOCUMENTS, {"documents": [document]}))
    for part in range(2):
        documents = [
            {"id": f"d{part}-{n}", "text": f"Water boils {n}.", "metadata": {"m": "x" * 15_000}}
            for n in range(250)
        ]
        result.replies.append(ask(url, "POST", DOCUMENTS, {"documents": documents}))
    for method, path, body in (
        ("GET", f"{DOCUMENTS}?limit=500", None),
        ("POST", SEARCH, {"question": "Water?", "top_k": 100}),
    ):
        reply = ask(url, method, path, body)
        result.replies.append(reply)
        if reply.size > 2**24:
            result.problems.append(f"{method} {path}: an answer of {reply.size / 1e6:.0f} MB")
    return result


def unusable_rows(url: str) -> Result:
    """A JSONL file of 5.5 MB, every line of which is `1`."""
    reply = _upload(url, "rows.jsonl", b"1\n" * 2_750_000)
    problems = [] if reply.size < 2**20 else [f"an answer of {reply.size / 1e6:.0f} MB"]
    return Result([reply], problems)


def expanding_pdf(url: str) -> Result:
    """A PDF of some 8 KB whose page has 8 MB of text."""
    reply = _upload(url, "bomb.pdf", pdf(b"(Cats sleep most of the day.) Tj T*\n" * 230_000))
    return Result([reply])


def unclosed_html(url: str) -> Result:
    """Files of 180 KB whose tags are never closed, and another upload meanwhile."""
    tags = (b"<b><i>", b"<div>", b"<table><tr><td>", b"<p><a href=x>", b"<ul><li>", b"<", b"<!--")
    files = [(f"open{n}.html", tag * (180_000 // len(tag))) for n, tag in enumerate(tags)]
    files.append(("note.md", b"# Title\n\nSome words of a note."))
    result = Result(together([partial(_upload, url, *file) for file in files]))
    if result.replies[-1].seconds > 10.0:
        result.problems.append(f"another upload took {result.replies[-1].seconds:.0f} s")
    return result


def latin_1(url: str) -> Result:
    """5.5 MB of text that is not UTF-8."""
    return Result(
        [_upload(url, "latin.txt", "Crème brûlée à la carte. ".encode("latin-1") * 220_000)]
    )


def odd_ids(url: str) -> Result:
    """Ids of 200 KB, of dots and slashes: what is taken can be listed and deleted."""
    result = Result()
    ids = ("x" * 200_000, ".", "..", "../..", "a/b", "%2e", "a b", "é", "a?b#c")
    for name in ids:
        row = json.dumps({"id": name, "text": f"The text of {name[:20]}."}).encode()
        result.replies.append(_upload(url, "rows.jsonl", row))
        body = {"documents": [{"id": name, "text": f"Another text of {name[:20]}."}]}
        result.replies.append(ask(url, "POST", DOCUMENTS, body))
    reply = ask(url, "GET", f"{DOCUMENTS}?limit=100", keep=10_000_000)
    result.replies.append(reply)
    for document in json.loads(reply.text)["data"]:
        gone = ask(url, "DELETE", f"{DOCUMENTS}/{quote(document['id'], safe='')}")
        result.replies.append(gone)
        if gone.status != 200:
            result.problems.append(f"{document['id'][:20]!r} cannot be deleted: {gone.status}")
    return result


def deep_json(url: str) -> Result:
    """A million brackets, to every path that takes JSON."""
    bodies = (b"[" * 1_000_000, b'{"a":' * 200_000, b'{"messages":' + b"[" * 500_000)
    return Result([ask(url, "POST", path, body) for path in POSTS for body in bodies])


def slow_clients(url: str) -> Result:
    """200 connections that send a byte a second for ten seconds."""
    head = f"POST {CHAT} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\n".encode()
    full = head + f"Authorization: Bearer {KEY}\r\nContent-Length: 1000\r\n\r\n".encode()
    opened: list[socket.socket] = []
    for number in range(200):
        connection = _connected(url)
        connection.sendall(head if number % 2 else full)
        opened.append(connection)
    for _ in range(10):
        time.sleep(1.0)
        for connection in opened:
            try:
                connection.sendall(b"x")
            except OSError:
                continue
    for connection in opened:
        connection.close()
    return Result()


def hang_ups(url: str) -> Result:
    """Requests whose clients leave in the middle: of a body, before an answer, in a stream."""
    chat = json.dumps(
        {"messages": [{"role": "user", "content": "ball?"}], "max_tokens": 400, "stream": True}
    ).encode()
    embed = json.dumps({"input": ["the ball is red " * 200] * 60}).encode()
    question = json.dumps({"question": "ball?", "max_tokens": 200, "stream": True}).encode()
    for number in range(90):
        path, body = ((CHAT, chat), (EMBEDDINGS, embed), (ANSWER, question))[number % 3]
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\n"
            f"Authorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode()
        with _connected(url) as connection:
            connection.sendall(head + (body if number % 2 else body[: len(body) // 2]))
            time.sleep(0.05)
    return Result()


def pdf(content: bytes) -> bytes:
    """A PDF of one page that shows this content, compressed."""
    packed = zlib.compress(b"BT /F1 12 Tf 14 TL 50 700 Td\n" + content + b"ET", 9)
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R "
        b"/Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d /Filter /FlateDecode >>\nstream\n%s\nendstream" % (len(packed), packed),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    made = b"%PDF-1.4\n"
    offsets = []
    for number, each in enumerate(objects, start=1):
        offsets.append(len(made))
        made += b"%d 0 obj\n%s\nendobj\n" % (number, each)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    size = len(objects) + 1
    return (
        made
        + b"xref\n0 %d\n0000000000 65535 f \n" % size
        + table
        + b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (size, len(made))
    )


def _upload(url: str, name: str, data: bytes) -> Reply:
    file = {"name": name, "data": base64.b64encode(data).decode()}
    return ask(url, "POST", DOCUMENTS, {"files": [file]})


def _connected(url: str) -> socket.socket:
    place = urlsplit(url)
    return socket.create_connection((str(place.hostname), place.port), timeout=PATIENCE_S)


def _answer(connection: socket.socket, began: float) -> Reply:
    """The status line that a server has sent, if any."""
    connection.settimeout(2.0)
    try:
        line = connection.recv(65536).split(b"\r\n", 1)[0].split()
    except TimeoutError:
        return Reply(-1, time.perf_counter() - began)
    except OSError:
        return Reply(CLOSED, time.perf_counter() - began)
    seconds = time.perf_counter() - began
    return Reply(int(line[1]) if len(line) > 1 else CLOSED, seconds)
