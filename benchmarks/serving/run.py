"""Throughput and latency of the server, compared with the library alone in the same run.

    python -m benchmarks.serving.run [--part 1,2,3,4] [--model FOLDER] [--chats 1,4,8,16]
                                     [--rounds 3] [--seconds 30] [--threads N] [--peer transformers]

Part 1: tokens per second of concurrent chats, compared with one chat after the other in this
process. Part 2: texts embedded per second. Part 3: gaps between tokens while many texts are
embedded. Part 4: time to the first token at the end of a queue. The server is its own process; it
is idle while this process computes, and its clients use the same cores. Sides alternate.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import cycle, islice

import numpy as np
import torch
from benchmarks.common import machine, part_of, passages_with_titles, table
from benchmarks.serving import peer as other
from benchmarks.serving.server import Client, Written, closed_loop, serving

from gritlm import GritLM, gritlm_instruction

TOKENS = 64  # of an answer
TEXT_TOKENS = 128  # of a text to embed, its header among them
HEADER = gritlm_instruction()
CLIENTS = 8  # that embed, or choose questions
QUESTIONS = 24  # taken in turn: more than slots, which remember what was asked in them
BULK = 64  # texts of a request

Run = Callable[[Awaitable[object]], object]
Side = Callable[[], float]


class Bench:
    """Model in this process, client of the server, and prompts that are in no KV slot."""

    def __init__(
        self, model: GritLM, client: Client, runner: asyncio.Runner, chosen: argparse.Namespace
    ) -> None:
        self.model = model
        self.client = client
        self.runner = runner
        self.chosen = chosen
        self.written: list[Written] = []
        self._questions = cycle(runner.run(long_answered(client)))
        generated(model, self.take(1)[0], 8)  # its first call takes longer

    def take(self, number: int) -> list[str]:
        """Return questions that were not asked recently, so that they are in no KV slot."""
        return list(islice(self._questions, number))

    def settle(self) -> None:
        """Wait until the server is idle."""
        self.runner.run(self.client.idle())

    def rates(self, sides: dict[str, Side]) -> dict[str, list[float]]:
        """Return the measurements of each side, one per round."""
        found: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(self.chosen.rounds):
            for name, side in sides.items():
                self.settle()
                found[name].append(side())
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--part", default="1,2,3,4")
    parser.add_argument("--model", default=None, help="left out: the default model")
    parser.add_argument("--chats", default="1,4,8,16", help="concurrent, in part 1")
    parser.add_argument("--slots", type=int, default=8, help="KV slots of the server")
    parser.add_argument("--texts", type=int, default=128, help="that a side embeds in part 2")
    parser.add_argument("--bulk", type=int, default=1920, help="texts embedded in part 3")
    parser.add_argument("--queue", type=int, default=32, help="chats of part 4")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=30.0, help="a side begins nothing after")
    parser.add_argument("--threads", type=int, default=None, help="of both sides; left out: all")
    parser.add_argument("--peer", choices=["transformers"], default=None, help="in part 1, too")
    chosen = parser.parse_args()
    if chosen.threads is not None:
        torch.set_num_threads(chosen.threads)
    model = GritLM(chosen.model)
    arguments = [*([chosen.model] if chosen.model else []), "--max-num-seqs", str(chosen.slots)]
    if chosen.threads is not None:
        arguments += ["--threads", str(chosen.threads)]
    print(
        f"{machine()}, {model.dtype}, {chosen.slots} slots, {TOKENS} tokens an answer, "
        f"{chosen.rounds} rounds, clients on the same machine\n"
    )
    with serving(arguments) as server, asyncio.Runner() as runner:
        bench = Bench(model, Client(server.url), runner, chosen)
        for part in chosen.part.split(","):
            print(f"{PARTS[int(part)](bench)}\n", flush=True)
        runner.run(bench.client.http.aclose())


def chats(bench: Bench) -> str:
    """Tokens a second, greedy."""
    sizes = [int(size) for size in bench.chosen.chats.split(",")]
    with ExitStack() as stack:
        asked: list[str] = []
        first = partial(served_chats, bench, bench.client, sizes[0], asked)
        sides: dict[str, Side] = {f"server, {sizes[0]} concurrent": first}
        sides["GritLM.generate, one by one"] = lambda: rate(bench, asked, generated)
        sides["GritLM.chat, one by one"] = lambda: rate(bench, asked, chatted)
        for size in sizes[1:]:
            side = partial(served_chats, bench, bench.client, size, [])
            sides[f"server, {size} concurrent"] = side
        if bench.chosen.peer:
            peer = stack.enter_context(other.running(bench.model, bench.chosen.threads))
            for size in sizes:
                name = f"{bench.chosen.peer} serve, {size} concurrent"
                sides[name] = partial(served_chats, bench, peer, size, [])
        found = bench.rates(sides)
    whole = [answer for answer in bench.written if answer.tokens == TOKENS]
    cached = sum(answer.cached for answer in bench.written)
    note = (
        f"{len(whole)} of {len(bench.written)} answers of servers have all {TOKENS} tokens; "
        f"their prompts have {statistics.median(w.prompt for w in bench.written):.0f} (median), "
        f"{cached / sum(w.prompt for w in bench.written):.0%} of which were in a slot already"
    )
    body = ratios(found, "GritLM.generate, one by one", "tokens a second")
    return f"### Chats\n\n{note}\n\n{body}"


def served_chats(bench: Bench, client: Client, size: int, asked: list[str]) -> float:
    """Return tokens per second of concurrent clients.

    Args:
        bench: models and prompts.
        client: client of the server to measure.
        size: number of clients.
        asked: list that receives the questions, for the other sides.
    """
    asked[:] = bench.take(size if size > 8 else max(3, 2 * size))
    requests = [partial(client.chat, text, tokens=TOKENS) for text in asked]
    loop = closed_loop(size, requests, seconds=bench.chosen.seconds)
    answers, seconds = bench.runner.run(loop)
    bench.written += answers
    return sum(answer.tokens for answer in answers) / seconds


def rate(bench: Bench, asked: Sequence[str], answer: Callable[[GritLM, str], int]) -> float:
    """Tokens a second in this process, one answer after the other."""
    began = time.perf_counter()
    tokens = 0
    for text in asked:
        tokens += answer(bench.model, text)
        if time.perf_counter() - began > bench.chosen.seconds:
            break
    return tokens / (time.perf_counter() - began)


def generated(model: GritLM, text: str, tokens: int = TOKENS) -> int:
    """Tokens that ``GritLM.generate`` writes."""
    ids = torch.tensor([model.chat_ids(text)], device=model.device)
    made = model.generate(ids, max_new_tokens=tokens, do_sample=False)[0, ids.shape[1] :]
    return sum(token not in model.end_ids for token in made.tolist())


def chatted(model: GritLM, text: str) -> int:
    """Tokens that ``GritLM.chat`` writes; its loop is faster than that of transformers."""
    answer = model.chat(text, max_new_tokens=TOKENS)
    return len(model.tokenizer(answer, add_special_tokens=False)["input_ids"])


def embeddings(bench: Bench) -> str:
    """Texts a second."""
    texts = texts_of(bench.model, TEXT_TOKENS, bench.chosen.texts)
    vectors: dict[str, list[np.ndarray]] = {}

    def alone() -> float:
        began = time.perf_counter()
        vectors["alone"] = list(bench.model.encode(texts, instruction=HEADER))
        return len(texts) / (time.perf_counter() - began)

    def served(batch: int) -> float:
        parts = [texts[at : at + batch] for at in range(0, len(texts), batch)]
        found: dict[int, np.ndarray] = {}

        async def embed(at: int) -> int:
            body = {"input": parts[at], "encoding_format": "base64"}
            answer = await bench.client.post("/v1/embeddings", body)
            for item in answer["data"]:
                raw = base64.b64decode(item["embedding"])
                found[at * batch + item["index"]] = np.frombuffer(raw, dtype="<f4")
            return len(answer["data"])

        requests = [partial(embed, at) for at in range(len(parts))]
        loop = closed_loop(CLIENTS, requests, seconds=bench.chosen.seconds)
        sizes, seconds = bench.runner.run(loop)
        vectors[str(batch)] = [found[at] for at in sorted(found)]
        return sum(sizes) / seconds

    name = "GritLM.encode, all in one call"
    sides: dict[str, Side] = {name: alone}
    for batch in (1, 16):
        sides[f"server, {CLIENTS} clients, {batch} a request"] = partial(served, batch)
    found = bench.rates(sides)
    pairs = [zip(vectors["alone"], vectors[key], strict=False) for key in ("1", "16")]
    least = min(float(a @ b) for pair in pairs for a, b in pair)
    note = f"{len(texts)} texts of about {TEXT_TOKENS} tokens; least cosine of both: {least:.5f}"
    return f"### Embeddings\n\n{note}\n\n{ratios(found, name, 'texts a second')}"


def beside_a_bulk(bench: Bench) -> str:
    """Milliseconds from a token to the next."""
    texts = texts_of(bench.model, TEXT_TOKENS, bench.chosen.bulk)
    gaps: dict[bool, list[list[float]]] = {False: [], True: []}
    embedded: list[str] = []
    for _ in range(bench.chosen.rounds):
        for bulk in (False, True):
            bench.settle()
            answers, note = bench.runner.run(streams(bench, texts if bulk else []))
            gaps[bulk].append([gap for answer in answers for gap in answer.gaps])
            embedded += [note] if bulk else []
    rows = []
    for bulk, rounds in gaps.items():
        row: list[str] = ["with a bulk of texts" if bulk else "chats alone"]
        for part in (0.5, 0.95, 1.0):
            now = statistics.median(part_of(each, part) for each in rounds)
            alone = statistics.median(part_of(each, part) for each in gaps[False])
            row.append(f"{1000 * now:.0f} ({now / alone:.2f}x)")
        rows.append(row)
    header = ["4 streamed chats", "p50 ms (ratio)", "p95 ms (ratio)", "longest ms (ratio)"]
    note = f"The bulk: {len(texts)} texts in requests of {BULK}. " + "; ".join(embedded)
    return f"### From a token to the next\n\n{note}\n\n{table(header, rows)}"


async def streams(bench: Bench, texts: Sequence[str]) -> tuple[list[Written], str]:
    """Stream eight chats, four at a time, while texts are embedded; cancel these afterwards."""
    client = bench.client
    began = time.perf_counter()
    parts = [texts[at : at + BULK] for at in range(0, len(texts), BULK)]
    bulk = [asyncio.create_task(client.post("/v1/embeddings", {"input": part})) for part in parts]
    while bulk and not (await client.gauges())["num_requests_running"]:
        await asyncio.sleep(0.05)
    requests = [partial(client.stream, text, tokens=TOKENS) for text in bench.take(8)]
    answers, _ = await closed_loop(4, requests, seconds=bench.chosen.seconds)
    done = sum(task.done() for task in bulk)
    for task in bulk:
        task.cancel()
    ended = await asyncio.gather(*bulk, return_exceptions=True)
    if failed := [each for each in ended if isinstance(each, RuntimeError)]:
        raise failed[0]
    seconds = time.perf_counter() - began
    return answers, f"{done} of {len(bulk)} requests were done after {seconds:.0f} s"


def queue(bench: Bench) -> str:
    """Return the table of the seconds to the first token of concurrent requests."""
    size = bench.chosen.queue
    whole = []
    first = []
    for text in bench.take(3):
        for tokens, taken in ((TOKENS, whole), (1, first)):
            began = time.perf_counter()
            generated(bench.model, text, tokens)
            taken.append(time.perf_counter() - began)
    each = statistics.median(whole)
    begin = statistics.median(first)
    bench.settle()
    requests = [partial(bench.client.stream, text, tokens=TOKENS) for text in bench.take(size)]
    answers, seconds = bench.runner.run(closed_loop(size, requests))
    waits = {
        f"server, {size} concurrent": [answer.pieces[0] - answer.sent for answer in answers],
        "one after the other (computed)": [begin + number * each for number in range(size)],
    }
    rows = [
        [
            name,
            *(f"{part_of(taken, part):.2f}" for part in (0.5, 0.95, 1.0)),
            f"{statistics.mean(taken):.2f}",
        ]
        for name, taken in waits.items()
    ]
    means = [statistics.mean(taken) for taken in waits.values()]
    note = (
        f"All {size} answers took {seconds:.1f} s; the mean wait is {means[1] / means[0]:.1f} "
        f"times shorter than one after the other, where an answer takes {each:.2f} s"
    )
    header = ["seconds to the first token", "p50", "p95", "last", "mean"]
    return f"### At the end of a queue\n\n{note}\n\n{table(header, rows)}"


PARTS = {1: chats, 2: embeddings, 3: beside_a_bulk, 4: queue}


def ratios(found: dict[str, list[float]], base: str, unit: str) -> str:
    """Table of medians, and how many times that of ``base`` they are."""
    median = {name: statistics.median(values) for name, values in found.items()}
    rows = [
        [
            name,
            f"{median[name]:.1f}",
            f"{min(values):.1f}-{max(values):.1f}",
            f"{median[name] / median[base]:.2f}x",
        ]
        for name, values in found.items()
    ]
    return table(["side", f"{unit} (median)", "range", "ratio"], rows)


async def long_answered(client: Client) -> list[str]:
    """Return questions whose answers reach the token limit."""
    kept: list[str] = []

    async def ask(text: str) -> None:
        if (await client.chat(text, tokens=TOKENS)).tokens == TOKENS:
            kept.append(text)

    candidates = questions()
    while len(kept) < QUESTIONS:
        some = [partial(ask, text) for text in islice(candidates, QUESTIONS)]
        if not some:
            raise RuntimeError(f"only {len(kept)} answers have {TOKENS} tokens, not {QUESTIONS}")
        await closed_loop(CLIENTS, some)
    return kept


def questions() -> Iterator[str]:
    """Real texts with a task that takes many words."""
    for number, row in enumerate(passages_with_titles()):
        words = " ".join(row["text"].split()[:60])
        yield (
            f"({number}) {words}\nThat was about {row['title']}. Write a long essay about "
            f"{row['title']}: history, causes, signs, treatment, prevention and research. Begin "
            "with an introduction."
        )


def texts_of(model: GritLM, tokens: int, number: int) -> list[str]:
    """Return natural texts of about the given number of tokens, header included."""
    own = tokens - len(model.tokenizer(HEADER)["input_ids"])
    text = " ".join(row["text"] for row in passages_with_titles())
    ids = model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    starts = [at * own % (len(ids) - own) for at in range(number)]
    return [model.tokenizer.decode(ids[at : at + own]) for at in starts]


if __name__ == "__main__":
    main()
