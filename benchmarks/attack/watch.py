"""Measurements during an attack: response times, gaps between tokens, memory."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import psutil
from benchmarks.serving.server import Client, Server

SAMPLED_S = 0.05
TOKENS = 120  # of each chat that runs meanwhile
PATIENCE_S = 90.0  # for requests that still run when an attack has ended


@dataclass
class Seen:
    """Observations during one attack.

    Attributes:
        memory: resident bytes of the server and its children.
        live: seconds of each ``GET /health/live``.
        embed: seconds of each small embedding.
        gaps: seconds between two tokens of the running chats.
        refused: errors that these clients got.
    """

    memory: list[int] = field(default_factory=list)
    live: list[float] = field(default_factory=list)
    embed: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


class Watch:
    """Clients with a key, next to an attack."""

    def __init__(self, server: Server, key: str) -> None:
        self.client = Client(server.url)
        self.client.http.headers["Authorization"] = f"Bearer {key}"
        self.seen = Seen()
        self._process = server.usage
        self._ended = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to observe."""
        jobs: tuple[tuple[Callable[[], Awaitable[None]], float], ...] = (
            (self._live, SAMPLED_S),
            (self._embed, 2 * SAMPLED_S),
            (self._chat, 0.0),
            (self._memory, SAMPLED_S),
        )
        self._tasks = [asyncio.create_task(self._again(*job)) for job in jobs]

    async def end(self) -> Seen:
        """Stop, once the requests that run are answered."""
        self._ended.set()
        _, late = await asyncio.wait(self._tasks, timeout=PATIENCE_S)
        for task in late:
            task.cancel()
            self.seen.refused.append(f"no answer {PATIENCE_S:.0f} s after the attack")
        await self.client.http.aclose()
        return self.seen

    async def _again(self, job: Callable[[], Awaitable[None]], pause_s: float) -> None:
        while not self._ended.is_set():
            try:
                await job()
            except Exception as error:
                self.seen.refused.append(f"{job.__name__}: {str(error)[:120] or repr(error)}")
                await asyncio.sleep(0.5)
            await asyncio.sleep(pause_s)

    async def _live(self) -> None:
        began = time.perf_counter()
        response = await self.client.http.get("/health/live")
        self.seen.live.append(time.perf_counter() - began)
        if response.status_code != 200:
            raise RuntimeError(f"/health/live: {response.status_code}")

    async def _embed(self) -> None:
        began = time.perf_counter()
        await self.client.post("/v1/embeddings", {"input": "A small text."})
        self.seen.embed.append(time.perf_counter() - began)

    async def _chat(self) -> None:
        written = await self.client.stream("Tell me of the ball.", tokens=TOKENS)
        self.seen.gaps += written.gaps

    async def _memory(self) -> None:
        self.seen.memory.append(resident(self._process))


def resident(process: psutil.Process) -> int:
    """Bytes that a process and its children have in memory."""
    total = 0
    for each in (process, *process.children(recursive=True)):
        try:
            total += each.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def median(values: list[float]) -> float:
    return statistics.median(values) if values else float("nan")


def most(values: list[float]) -> float:
    return max(values, default=float("nan"))
