"""Requests that arrive together, compared with the same requests one after another.

    python -m benchmarks.serving.together [--sizes 8] [--kinds chats,replies,answers]
                                          [--tokens 16] [--rounds 5] [--threads 1] [--model FOLDER]

``chats`` are prompts of about 120 tokens. ``replies`` are chats with a common system prompt, which
is in a KV slot, and a last message of some 20 tokens. ``answers`` are questions to a store of
documents, whose blocks are cached. The server is its own process; its CPU time and the wall time of
its clients are measured for the same requests on both sides, which alternate.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from itertools import cycle, islice
from pathlib import Path

from benchmarks.common import machine, passages_with_titles, table
from benchmarks.serving.server import Client, Server, closed_loop, serving

from gritlm import GritLM
from gritlm.rag import RagEngine

SYSTEM = "You are the assistant of a hospital. " + "Answer in short and friendly sentences. " * 4

Send = Callable[[], Awaitable[int]]
Kind = Callable[[Client, int], Iterator[Send]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default=None, help="left out: the default model")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--sizes", default="8", help="numbers of requests that arrive together")
    parser.add_argument("--tokens", type=int, default=16, help="most tokens of an answer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of the server")
    chosen = parser.parse_args()
    sizes = [int(size) for size in chosen.sizes.split(",")]
    print(f"{machine()}, server with {chosen.threads} threads, {chosen.rounds} rounds\n")
    with tempfile.TemporaryDirectory() as folder:
        store = stored(GritLM(chosen.model), Path(folder) / "store")
        arguments = [*([chosen.model] if chosen.model else []), "--store", str(store)]
        arguments += ["--threads", str(chosen.threads), "--max-num-seqs", str(max(sizes))]
        with serving(arguments) as server, asyncio.Runner() as runner:
            client = Client(server.url)
            rows = []
            for kind in chosen.kinds.split(","):
                requests = KINDS[kind](client, chosen.tokens)
                for size in sizes:
                    rows += compared(server, client, runner, kind, requests, size, chosen.rounds)
            runner.run(client.http.aclose())
    header = ["requests", "side", "CPU s (range)", "wall s (range)", "CPU", "wall"]
    print(table(header, rows))


def stored(model: GritLM, place: Path) -> Path:
    """Make a store of some passages, and return its folder."""
    with RagEngine.open(place, model) as engine:
        engine.add([{"id": str(n), "text": text} for n, text in enumerate(texts())])
    return place


def texts() -> list[str]:
    return [row["text"] for row in passages_with_titles()[:40]]


def compared(
    server: Server,
    client: Client,
    runner: asyncio.Runner,
    kind: str,
    requests: Iterator[Send],
    size: int,
    rounds: int,
) -> list[list[str]]:
    """Return the rows of the table for a number of requests."""
    seconds: dict[int, list[tuple[float, float]]] = {1: [], size: []}
    tokens: dict[int, list[int]] = {1: [], size: []}
    runner.run(closed_loop(size, islice(requests, size)))
    for _ in range(rounds):
        for clients in seconds:
            runner.run(client.idle())
            some = list(islice(requests, size))
            began = cpu_s(server), time.perf_counter()
            done, _ = runner.run(closed_loop(clients, some))
            seconds[clients].append((cpu_s(server) - began[0], time.perf_counter() - began[1]))
            tokens[clients].append(sum(done))
    rows = []
    for clients, name in ((1, "one after another"), (size, "together")):
        row = [f"{size} {kind}", f"{name} ({sum(tokens[clients])} tokens)"]
        ratios = []
        for part in (0, 1):
            alone = statistics.median(each[part] for each in seconds[1])
            found = [each[part] for each in seconds[clients]]
            median = statistics.median(found)
            row.append(f"{median:.2f} ({min(found):.2f}-{max(found):.2f})")
            ratios.append(f"{alone / median:.2f}x")
        rows.append([*row, *ratios])
    return rows


def cpu_s(server: Server) -> float:
    """Return the seconds of CPU time that the server has used."""
    times = server.usage.cpu_times()
    return float(times.user + times.system)


def chats(client: Client, tokens: int) -> Iterator[Send]:
    """Yield chats with different prompts."""
    for number, text in enumerate(cycle(texts())):
        words = " ".join(text.split()[:60])
        prompt = f"({number}) {words}\nSum this up in one sentence."
        yield partial(_chat, client, [("user", prompt)], tokens)


def replies(client: Client, tokens: int) -> Iterator[Send]:
    """Yield chats with a common system prompt."""
    for number, row in enumerate(cycle(passages_with_titles())):
        question = f"{number}: What should I know about {row['title']}?"
        yield partial(_chat, client, [("system", SYSTEM), ("user", question)], tokens)


async def _chat(client: Client, messages: Sequence[tuple[str, str]], tokens: int) -> int:
    turns = [{"role": role, "content": content} for role, content in messages]
    body = {"messages": turns, "max_tokens": tokens, "temperature": 0}
    answer = await client.post("/v1/chat/completions", body)
    return int(answer["usage"]["completion_tokens"])


def answers(client: Client, tokens: int) -> Iterator[Send]:
    """Yield questions to the documents."""
    for row in cycle(passages_with_titles()[:40]):
        yield partial(_answer, client, f"What is known about {row['title']}?", tokens)


async def _answer(client: Client, question: str, tokens: int) -> int:
    body = {"question": question, "max_tokens": tokens}
    answer = await client.post("/v1/rag/answer", body)
    return int(answer["usage"]["completion_tokens"])


KINDS: dict[str, Kind] = {"chats": chats, "replies": replies, "answers": answers}


if __name__ == "__main__":
    main()
