"""Soak test of the server under mixed load: memory, errors, and resources left at the end.

    python -m benchmarks.serving.soak [--minutes 10] [--model FOLDER] [--threads N] [--seed 0]
                                    [--only chat,embed]

Chats whole and streamed, some hung up on; texts embedded, also hung up on; reranking; documents
added, asked about and deleted. Every kind has clients of its own, which ask again when they are
answered. Exits with 1 when there was an error, when memory has grown by more than 5% from the
second minute on, or when something still runs at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import psutil
from benchmarks.common import machine, mixed_texts, passages_with_titles
from benchmarks.serving.server import Client, serving

LINE_S = 15.0
SETTLED = 0.2  # part of the time after which memory has to be flat: the second minute of ten
GROWTH = 0.05
MODES = ("none", "query", "doc", "doc-query", "query-doc")
FUSIONS = ("sequence", "token", "joint")
REMEMBERED = 20  # errors that are shown

# One client each; every name is a method of Load.
KINDS = (
    "chat",
    "chat",
    "stream",
    "stream",
    "leave",
    "embed",
    "embed",
    "forget_texts",
    "rerank",
    "document",
    "ask",
)


@dataclass(frozen=True)
class Look:
    """The server's process at a moment.

    Attributes:
        at: seconds since the load began.
        rss: bytes in memory; ``own`` those that are no file's.
    """

    at: float
    rss: int
    own: int
    threads: int
    files: int


class Load:
    """Clients of all kinds, and what came of their visits."""

    def __init__(self, client: Client, seed: int) -> None:
        self._client = client
        self._random = random.Random(seed)
        self._passages = passages_with_titles()
        self._texts = mixed_texts(400)
        self._documents = 0
        self.visits: Counter[str] = Counter()
        self.hung_up = 0
        self.errors: list[str] = []

    async def run(self, kinds: Sequence[str], seconds: float) -> None:
        """Clients of these kinds, for so long."""
        until = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            for name in kinds:
                group.create_task(self._again(name, until))

    async def _again(self, name: str, until: float) -> None:
        while time.monotonic() < until:
            try:
                await getattr(self, f"_{name}")()
            except Exception as error:
                self.errors.append(f"{name}: {error!r}")
                await asyncio.sleep(1.0)
            self.visits[name] += 1

    async def _chat(self) -> None:
        await self._client.chat(self._question(), tokens=self._random.randint(4, 48))

    async def _stream(self) -> None:
        await self._client.stream(self._question(), tokens=self._random.randint(4, 48))

    async def _leave(self) -> None:
        after = self._random.randint(1, 12)
        await self._client.stream(self._question(), tokens=48, hang_up_after=after)
        self.hung_up += 1

    async def _embed(self) -> None:
        texts = self._random.sample(self._texts, self._random.randint(1, 16))
        answer = await self._client.post("/v1/embeddings", {"input": texts})
        if len(answer["data"]) != len(texts):
            raise RuntimeError(f"{len(answer['data'])} vectors for {len(texts)} texts")

    async def _forget_texts(self) -> None:
        texts = self._random.sample(self._texts, 64)
        try:
            async with asyncio.timeout(self._random.uniform(0.05, 1.0)):
                await self._client.post("/v1/embeddings", {"input": texts})
        except TimeoutError:
            self.hung_up += 1
        await asyncio.sleep(self._random.uniform(0.0, 2.0))

    async def _rerank(self) -> None:
        rows = self._random.sample(self._passages, 6)
        method = self._random.choice(["embed", "embed", "generate"])
        body = {"query": rows[0]["title"], "documents": [row["text"] for row in rows]}
        answer = await self._client.post("/v1/rerank", body | {"method": method})
        if len(answer["results"]) != len(rows):
            raise RuntimeError(f"{len(answer['results'])} results for {len(rows)} documents")

    async def _document(self) -> None:
        """Add one, ask about it, delete it."""
        self._documents += 1
        row = self._random.choice(self._passages)
        name = f"soak-{self._documents}"
        body = {"id": name, "title": row["title"], "text": f"{row['text']} ({name})"}
        added = await self._client.post("/v1/rag/documents", {"documents": [body]})
        await self._answer(row["title"])
        gone = await self._client.http.delete(f"/v1/rag/documents/{name}")
        if added["documents"] != 1 or gone.status_code != 200:
            raise RuntimeError(f"added {added}, deleted: {gone.status_code} {gone.text[:200]}")

    async def _ask(self) -> None:
        await self._answer(self._random.choice(self._passages)["title"])

    async def _answer(self, title: str) -> None:
        mode = self._random.choice(MODES)
        alone = mode in ("none", "doc")
        body = {
            "question": f"What is known about {title}?",
            "mode": mode,
            "fusion": self._random.choice(FUSIONS) if alone else "joint",
            "top_k": self._random.randint(1, 3),
            "max_tokens": self._random.randint(1, 16),
        }
        if self._random.random() < 0.5:
            await self._client.post("/v1/rag/answer", body)
            return
        seen: list[str] = []
        events = self._client.events("/v1/rag/answer", body | {"stream": True})
        async with aclosing(events) as received:
            async for event in received:
                seen += event
        if "sources" not in seen or "trace" not in seen:
            raise RuntimeError("a stream had no sources, or no trace")

    def _question(self) -> str:
        words = self._random.choice(self._texts).split()[:100]
        return f"{' '.join(words)}\nWhat follows from this? ({self._random.random():.6f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--model", default=None, help="left out: the default model")
    parser.add_argument("--threads", type=int, default=None, help="of the server; left out: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(KINDS), help="kinds of clients, one each")
    chosen = parser.parse_args()
    arguments = [chosen.model] if chosen.model else []
    if chosen.threads is not None:
        arguments += ["--threads", str(chosen.threads)]
    print(f"{machine()}, {chosen.minutes:g} minutes", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        with serving([*arguments, "--store", str(store)]) as server:
            client = Client(server.url)
            looks, load, gauges = asyncio.run(soaked(client, server.usage, store, chosen))
    sys.exit(0 if verdict(looks, load, gauges) else 1)


async def soaked(
    client: Client, process: psutil.Process, store: Path, chosen: argparse.Namespace
) -> tuple[list[Look], Load, dict[str, float]]:
    """Load for so long -> looks at the process, what came of it, gauges afterwards."""
    documents = [
        {"id": row["id"], "title": row["title"], "text": row["text"]}
        for row in passages_with_titles()[:20]
    ]
    await client.post("/v1/rag/documents", {"documents": documents})
    load = Load(client, chosen.seed)
    looks = []
    began = time.monotonic()
    kinds = chosen.only.split(",")
    seconds = 60 * chosen.minutes
    running = asyncio.create_task(load.run(kinds, seconds))
    while not running.done():
        await asyncio.wait([running], timeout=LINE_S)
        looks.append(look(process, time.monotonic() - began))
        print(line(looks[-1], load, store), flush=True)
    await running
    gauges = await client.idle()
    await client.http.aclose()
    return looks, load, gauges


def look(process: psutil.Process, at: float) -> Look:
    memory = process.memory_full_info()
    return Look(at, memory.rss, memory.uss, process.num_threads(), process.num_fds())


def line(now: Look, load: Load, store: Path) -> str:
    kept = sum(path.stat().st_blocks * 512 for path in store.rglob("*") if path.is_file())
    return (
        f"{now.at:5.0f} s: {load.visits.total()} requests, {load.hung_up} hung up on, "
        f"{len(load.errors)} errors, RSS {now.rss / 1e6:.0f} MB ({now.own / 1e6:.0f} its own), "
        f"{now.threads} threads, {now.files} files, store {kept / 1e6:.1f} MB"
    )


def verdict(looks: list[Look], load: Load, gauges: dict[str, float]) -> bool:
    """Whether all is well; says why not."""
    end = looks[-1].at
    settled = [each for each in looks if each.at >= SETTLED * end]
    few = max(1, len(settled) // 8)
    before, after = (
        statistics.median(each.rss for each in some) for some in (settled[:few], settled[-few:])
    )
    growth = after / before - 1
    print(f"\nrequests: {dict(load.visits)}")
    print(f"RSS from {SETTLED * end / 60:.1f} to {end / 60:.1f} minutes: {growth:+.1%}")
    print(f"errors: {len(load.errors)}", *load.errors[:REMEMBERED], sep="\n  ")
    left = {name: value for name, value in gauges.items() if value and name in IDLE}
    print(f"left afterwards: {left or 'nothing'}")
    return growth <= GROWTH and not load.errors and not left


IDLE = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")


if __name__ == "__main__":
    main()
