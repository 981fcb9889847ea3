"""Rows of the server: concurrent chats, and embeddings of one text a request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import psutil
import torch

from benchmarks.serving.run import HEADER, TEXT_TOKENS, questions, texts_of
from benchmarks.serving.server import CHAT, Client, Server, closed_loop, serving
from benchmarks.speed import llamacpp
from benchmarks.speed.measure import Compared, Row, Setting, Taken, timed
from benchmarks.speed.workers import Apart, Room, Round, compare
from gritlm import GritLM

CLIENTS = 8
TOKENS = 64
CONTEXT = 512
SERVED = f"gritlm serve, {CLIENTS} chats"
LLAMA = f"llama.cpp server, {CLIENTS} slots"
GENERATE = "GritLM.generate, one by one"
ALONE = "GritLM.chat, one by one"
EMBEDDED = f"gritlm serve, {CLIENTS} clients, one text a request"
CALL = "GritLM.encode, one call"


def chats(setting: Setting, folder: Path) -> Row:
    """Measure eight chats at a time."""
    title = f"{CLIENTS} chats"
    compared = [
        Compared(f"{title}: one by one (GritLM.generate)", SERVED, GENERATE, 5.0),
        Compared(f"{title}: one by one (GritLM.chat)", SERVED, ALONE, 5.0),
        Compared(f"{title}: llama.cpp's server", SERVED, LLAMA, 1.0),
    ]
    row = Row(title, "tokens/s", compared)
    places = [Apart([GENERATE, ALONE], chats_one_by_one), Apart([SERVED], our_server)]
    places += llamacpp.apart(row, LLAMA, "bf16", setting, folder, llama_server)
    row.notes.append(
        f"{TOKENS} tokens an answer, prompts of some 130 tokens that are new to all sides, their "
        "reading included; CPU time of servers is that of their processes"
    )
    return compare(row, places, setting, folder)


def chats_one_by_one(room: Room) -> dict[str, Round]:
    """Prepare chats of the library, one after the other."""
    model = GritLM(room.setting.model, dtype="bfloat16")
    asked = questions()
    count = 1 if room.setting.quick else 3
    return {
        GENERATE: lambda: spent(partial(generated, model), list(islice(asked, count))),
        ALONE: lambda: spent(partial(chatted, model), list(islice(asked, count))),
    }


def our_server(room: Room) -> dict[str, Round]:
    """Prepare chats with our server, which is a process of its own."""
    runner = room.closing.enter_context(asyncio.Runner())
    server = room.closing.enter_context(serving(arguments(room.setting)))
    return {SERVED: partial(served_chats, runner, server, questions())}


def llama_server(path: Path, room: Room) -> dict[str, Round]:
    """Prepare chats with llama.cpp's server, which is a process of its own."""
    runner = room.closing.enter_context(asyncio.Runner())
    options = {"threads": room.setting.threads, "context": CONTEXT, "slots": CLIENTS}
    server = room.closing.enter_context(llamacpp.other_process(path, **options))
    return {LLAMA: partial(served_chats, runner, server, questions())}


def embeddings(setting: Setting, folder: Path) -> Row:
    """Measure embeddings over HTTP with one text a request."""
    title = "embeddings over HTTP, one text a request"
    row = Row(title, "texts/s", [Compared(f"{title}: one call", EMBEDDED, CALL, 0.95)])
    count = 16 if setting.quick else 96
    row.notes.append(f"{count} texts of {TEXT_TOKENS} tokens, {CLIENTS} clients")
    places = [Apart([CALL, EMBEDDED], partial(embedding, count))]
    return compare(row, places, setting, folder)


def embedding(count: int, room: Room) -> dict[str, Round]:
    """Prepare one call of the library, and our server, which is a process of its own."""
    model = GritLM(room.setting.model, dtype="bfloat16")
    texts = texts_of(model, TEXT_TOKENS, count)
    runner = room.closing.enter_context(asyncio.Runner())
    server = room.closing.enter_context(serving(arguments(room.setting)))
    requests = [partial(embed, text) for text in texts]
    return {
        CALL: partial(timed, lambda: model.encode(texts, instruction=HEADER), count),
        EMBEDDED: lambda: served(runner, server, requests, lambda _: 1),
    }


def arguments(setting: Setting) -> list[str]:
    named = [] if setting.model is None else [setting.model]
    return [*named, "--max-num-seqs", str(CLIENTS), "--threads", str(setting.threads)]


def served_chats(runner: asyncio.Runner, server: Server, asked: Iterator[str]) -> Taken:
    """Return the time of eight chats with questions that the server does not know yet."""
    requests = [partial(chat, text) for text in islice(asked, CLIENTS)]
    return served(runner, server, requests, lambda answer: answer["usage"]["completion_tokens"])


def served(
    runner: asyncio.Runner,
    server: Server,
    requests: list[Callable[[Client], Any]],
    amount: Callable[[Any], int],
) -> Taken:
    """Return the time of concurrent requests: wall time, and CPU time of the server."""

    async def run() -> list[Any]:
        client = Client(server.url)
        try:
            pending = [partial(each, client) for each in requests]
            return (await closed_loop(CLIENTS, pending))[0]
        finally:
            await client.http.aclose()

    cpu = cpu_of(server)
    wall = perf_counter()
    answers = runner.run(run())
    taken = perf_counter() - wall
    return Taken(taken, cpu_of(server) - cpu, float(sum(amount(each) for each in answers)))


def cpu_of(server: Server) -> float:
    times = psutil.Process(server.process.pid).cpu_times()
    return float(times.user + times.system)


async def chat(text: str, client: Client) -> Any:
    """Return an answer of full length."""
    messages = [{"role": "user", "content": text}]
    body = {"messages": messages, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}
    return await client.post(CHAT, body)


async def embed(text: str, client: Client) -> Any:
    return await client.post("/v1/embeddings", {"input": text, "encoding_format": "base64"})


def spent(answer: Callable[[str], int], texts: list[str]) -> Taken:
    """Return the time of answers in this process, one after the other."""
    cpu = process_time()
    wall = perf_counter()
    tokens = sum(answer(text) for text in texts)
    return Taken(perf_counter() - wall, process_time() - cpu, tokens)


def generated(model: GritLM, text: str) -> int:
    """Return the number of tokens that ``GritLM.generate`` makes."""
    ids = torch.tensor([model.chat_ids(text)])
    model.generate(ids, max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False)
    return TOKENS


def chatted(model: GritLM, text: str) -> int:
    """Return the number of tokens that ``GritLM.chat`` makes."""
    model.chat(text, max_new_tokens=TOKENS, ignore_eos=True)
    return TOKENS
