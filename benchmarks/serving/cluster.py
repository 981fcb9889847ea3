"""``gritlm serve --ray`` next to ``gritlm serve``: tokens a second, latency, two replicas.

    python -m benchmarks.serving.cluster [--model FOLDER] [--chats 8] [--rounds 3] [--tokens 48]

Both servers run at the same time, and one is idle while the other is measured; sides alternate.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Sequence
from functools import partial

from benchmarks.common import machine, passages_with_titles, table
from benchmarks.serving.server import Client, closed_loop, serving

POSTS = 40  # small requests of a round, one after another
EMBEDDINGS = "/v1/embeddings"


def main() -> None:
    """Print both tables."""
    chosen = _arguments()
    model = [chosen.model] if chosen.model else []
    one = [*model, "--threads", "1", "--max-num-seqs", str(chosen.chats)]
    print(machine())
    with serving(one) as plain, serving([*one, "--ray"]) as ray:
        found = asyncio.run(_alternate({"serve": plain.url, "serve --ray": ray.url}, chosen))
    print(_table(found, "serve"))
    half = [*model, "--threads", "1", "--max-num-seqs", str(max(1, chosen.chats // 2)), "--ray"]
    found = {}
    for count in (1, 2):
        with serving([*half, "--replicas", str(count)]) as server:
            side = f"{count} replica{'s' * (count > 1)} of one thread"
            found |= asyncio.run(_alternate({side: server.url}, chosen))
    print(_table(found, "1 replica of one thread"))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model")
    parser.add_argument("--chats", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=48)
    return parser.parse_args()


async def _alternate(
    sides: dict[str, str], chosen: argparse.Namespace
) -> dict[str, list[tuple[float, float, float]]]:
    """Return tokens a second, median milliseconds of a small request and of a first token."""
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in sides}
    for turn in range(chosen.rounds + 1):
        for name, url in sides.items():
            values = await _measure(Client(url), chosen, turn)
            if turn:  # the first round warms up
                found[name].append(values)
    return found


async def _measure(
    client: Client, chosen: argparse.Namespace, turn: int
) -> tuple[float, float, float]:
    texts = [each["text"][:200] for each in passages_with_titles()]
    texts = texts[turn * 2 * chosen.chats :][: 2 * chosen.chats]
    asked = [partial(client.stream, f"Say more: {text}", tokens=chosen.tokens) for text in texts]
    written, seconds = await closed_loop(chosen.chats, asked)
    taken = []
    for _ in range(POSTS):
        start = time.perf_counter()
        await client.post(EMBEDDINGS, {"input": "a"})
        taken.append(time.perf_counter() - start)
    first = [each.pieces[0] - each.sent for each in written if each.pieces]
    await client.http.aclose()
    tokens = sum(each.tokens for each in written)
    return tokens / seconds, 1000 * statistics.median(taken), 1000 * statistics.median(first)


def _table(found: dict[str, list[tuple[float, float, float]]], base: str) -> str:
    medians = {
        name: [statistics.median(column) for column in zip(*rows, strict=True)]
        for name, rows in found.items()
    }
    rows: list[Sequence[object]] = []
    for name, (tokens, small, first) in medians.items():
        ratio = tokens / medians[base][0]
        added = small - medians[base][1]
        rows.append(
            [
                name,
                f"{tokens:.1f}",
                f"{ratio:.2f}x",
                f"{small:.1f}",
                f"{added:+.1f}",
                f"{first:.0f}",
            ]
        )
    header = ["side", "tokens/s", "ratio", "small request, ms", "added, ms", "first token, ms"]
    return table(header, rows)


if __name__ == "__main__":
    main()
