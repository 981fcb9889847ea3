"""Shared code of the server benchmarks: a server in its own process, and its clients."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil

T = TypeVar("T")

STARTS_S = 120.0  # for a server to load its model and listen
ENDS_S = 60.0
ANSWERS_S = 600.0  # for one request
KEPT = "GRITLM_CACHE"  # all other variables of ours would change the server


@dataclass(frozen=True)
class Server:
    """Running server.

    Attributes:
        url: address, without a trailing slash.
        process: process of the server.
        log: file with its output.
    """

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def usage(self) -> psutil.Process:
        return psutil.Process(self.process.pid)


@dataclass(frozen=True)
class Written:
    """An answer.

    Attributes:
        tokens: that it has.
        cached: tokens of its prompt that need not be read.
        sent: when it was asked for (``time.perf_counter``).
        pieces: when each piece of text came.
    """

    tokens: int
    prompt: int
    cached: int
    sent: float
    pieces: list[float] = field(default_factory=list)

    @property
    def gaps(self) -> list[float]:
        """Seconds from a piece to the next."""
        return [b - a for a, b in zip(self.pieces, self.pieces[1:], strict=False)]


@contextmanager
def serving(arguments: Sequence[str]) -> Iterator[Server]:
    """``gritlm serve`` on a free port; it has ended afterwards, by SIGTERM.

    Raises:
        RuntimeError: when it does not listen in time, or ends other than well.
    """
    command = [sys.executable, "-m", "gritlm", "serve", "--port", "0", *arguments]
    with started(command, re.compile(r" at (http://\S+)")) as server:
        yield server
    if server.process.returncode:
        raise RuntimeError(f"the server ended with {server.process.returncode}")


@contextmanager
def started(
    command: Sequence[str], address: re.Pattern[str], variables: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """A server that says where it listens, in a line with ``address``."""
    environment = _environment() | dict(variables or {})
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        try:
            yield Server(_listening(process, log, address), process, log)
        finally:
            _end(process)


def _environment() -> dict[str, str]:
    found = os.environ.items()
    return {k: v for k, v in found if k == KEPT or not k.startswith("GRITLM_")} | {
        "HF_HUB_OFFLINE": "1"
    }


def _listening(process: subprocess.Popen[bytes], log: Path, address: re.Pattern[str]) -> str:
    until = time.monotonic() + STARTS_S
    while time.monotonic() < until and process.poll() is None:
        if found := address.search(log.read_text(encoding="utf-8", errors="replace")):
            return found[1]
        time.sleep(0.1)
    raise RuntimeError(f"the server does not listen; it says:\n{log.read_text(errors='replace')}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(ENDS_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Client:
    """Asks one server. Its answers are greedy.

    Args:
        model: the name by which the server knows its model.
    """

    def __init__(self, url: str, *, model: str | None = None) -> None:
        self._named = {} if model is None else {"model": model}
        self.http = httpx.AsyncClient(
            base_url=url, timeout=ANSWERS_S, limits=httpx.Limits(max_connections=None)
        )

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        """The answer to a request.

        Raises:
            RuntimeError: for any status but 200.
        """
        response = await self.http.post(path, json=self._named | body)
        if response.status_code != 200:
            raise RuntimeError(f"{path}: {response.status_code} {response.text[:500]}")
        return response.json()

    async def chat(self, text: str, *, tokens: int) -> Written:
        """Return a complete answer."""
        sent = time.perf_counter()
        return _written((await self.post(CHAT, _chat(text, tokens)))["usage"], sent, [])

    async def stream(self, text: str, *, tokens: int, hang_up_after: int | None = None) -> Written:
        """Return a streamed answer, with the time of each event.

        Args:
            hang_up_after: number of events after which the client disconnects.
        """
        sent = time.perf_counter()
        pieces = []
        body = _chat(text, tokens) | {"stream": True, "stream_options": {"include_usage": True}}
        usage = None
        async with aclosing(self.events(CHAT, body)) as events:
            async for event in events:
                usage = event.get("usage") or usage
                if event["choices"] and event["choices"][0]["delta"].get("content"):
                    pieces.append(time.perf_counter())
                    if len(pieces) == hang_up_after:
                        return Written(len(pieces), 0, 0, sent, pieces)
        if usage is None:
            raise RuntimeError(f"{CHAT}: a stream ended without its usage")
        return _written(usage, sent, pieces)

    async def events(self, path: str, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        """Events of a stream; leaving early hangs up.

        Raises:
            RuntimeError: for any status but 200, and for an error on the way.
        """
        async with self.http.stream("POST", path, json=self._named | body) as response:
            if response.status_code != 200:
                text = (await response.aread()).decode(errors="replace")
                raise RuntimeError(f"{path}: {response.status_code} {text[:500]}")
            async for line in response.aiter_lines():
                if not line.startswith("data: ") or line == "data: [DONE]":
                    continue
                event = json.loads(line.removeprefix("data: "))
                if "error" in event:
                    raise RuntimeError(f"{path}: {event['error']}")
                yield event

    async def gauges(self) -> dict[str, float]:
        """Numbers of ``/metrics`` that have no labels."""
        text = (await self.http.get("/metrics")).text
        found = re.findall(r"^gritlm_(\w+) (\S+)$", text, flags=re.MULTILINE)
        return {name: float(value) for name, value in found}

    async def idle(self, *, within_s: float = 30.0) -> dict[str, float]:
        """Wait until nothing runs or waits; the last look at the gauges, whatever they say."""
        until = time.monotonic() + within_s
        while True:
            gauges = await self.gauges()
            busy = gauges["num_requests_running"] + gauges["num_requests_waiting"]
            if not busy or time.monotonic() > until:
                return gauges
            await asyncio.sleep(0.05)


CHAT = "/v1/chat/completions"


def _chat(text: str, tokens: int) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"messages": messages, "max_tokens": tokens, "temperature": 0}


def _written(usage: dict[str, Any], sent: float, pieces: list[float]) -> Written:
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return Written(usage["completion_tokens"], usage["prompt_tokens"], cached, sent, pieces)


async def closed_loop(
    clients: int, requests: Iterable[Callable[[], Awaitable[T]]], *, seconds: float = float("inf")
) -> tuple[list[T], float]:
    """Run requests by several clients, each of which sends its next request after a response.

    Args:
        clients: number of clients.
        requests: functions that send a request and return its result.
        seconds: time after which no request is sent.

    Returns:
        The results, and the seconds until the last response.
    """
    waiting = iter(requests)
    done = []
    began = time.perf_counter()

    async def client() -> None:
        while time.perf_counter() - began < seconds:
            request = next(waiting, None)
            if request is None:
                return
            done.append(await request())

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
    return done, time.perf_counter() - began
