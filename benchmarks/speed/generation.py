"""Rows of generation: decoding and prefill of one sequence, and drafts from the prompt."""

from __future__ import annotations

import importlib.util
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import CORPUS, prompt_ids
from benchmarks.speed import llamacpp
from benchmarks.speed.measure import Compared, Row, Setting, Taken, less, timed
from benchmarks.speed.workers import Apart, Room, Round, compare
from gritlm import GritLM, SamplingParams
from gritlm.lm.generator import complete, prefill, prefix_cache
from gritlm.rag import AnswerOptions, RagEngine

PROMPT = 128
OURS = "gritlm"
NOTE = ", compile=True"
COMPILED = f"{OURS}{NOTE}"
NO_NUMBA = "not installed: pip install numba"
LLAMA = "llama.cpp"
TRANSFORMERS = "transformers generate()"
QUOTE = "Repeat the text above word for word. {}"
WITH, WITHOUT = "with drafts", "without drafts"

Generate = Callable[[int], object]


def decode_bfloat16(setting: Setting, folder: Path) -> Row:
    """Measure decoding in bfloat16."""
    title = "decode, one stream, bf16"
    peers = {f"{title}: transformers": (TRANSFORMERS, 2.0), f"{title}: {LLAMA} bf16": (LLAMA, 1.0)}
    row = Row(title, "tokens/s", both_sides(peers))
    places = ours_apart(row, dtype="bfloat16")
    places.append(Apart([TRANSFORMERS], transformers_decoding))
    places += llamacpp.apart(row, LLAMA, "bf16", setting, folder, llama_decoding)
    return decoded(row, places, setting, folder)


def decode_quantized(setting: Setting, folder: Path, *, ours_in: str, theirs_in: str) -> Row:
    """Measure decoding with quantised weights."""
    title = f"decode, one stream, {ours_in}"
    peers = {f"{title}: {LLAMA} {theirs_in.upper()}": (LLAMA, 1.0)}
    row = Row(title, "tokens/s", both_sides(peers))
    places = ours_apart(row, quantization=ours_in)
    places += llamacpp.apart(row, LLAMA, theirs_in, setting, folder, llama_decoding)
    return decoded(row, places, setting, folder)


def both_sides(peers: Mapping[str, tuple[str, float]]) -> list[Compared]:
    """Return the ratios of our plain and compiled steps over each peer."""
    return [
        Compared(f"{label}{note}", side, peer, wanted)
        for label, (peer, wanted) in peers.items()
        for side, note in ((OURS, ""), (COMPILED, NOTE))
    ]


def ours_apart(row: Row, **options: Any) -> list[Apart]:
    """Return our plain and compiled steps; the row has the reason where the latter are missing."""
    places = [Apart([OURS], partial(our_decoding, OURS, options))]
    if options.get("quantization") == "int4":
        row.missing[COMPILED] = "int4 has no compiled steps"
    elif importlib.util.find_spec("numba") is None:
        row.missing[COMPILED] = NO_NUMBA
    else:
        compiled = partial(our_decoding, COMPILED, {**options, "compile": True})
        places.append(Apart([COMPILED], compiled))
    return places


def decoded(row: Row, places: list[Apart], setting: Setting, folder: Path) -> Row:
    """Measure the time of each token after the first one."""
    row.notes.append(
        f"prompt of {PROMPT} tokens, {new_tokens(setting)} new ones, without the first"
    )
    return compare(row, places, setting, folder)


def new_tokens(setting: Setting) -> int:
    return 32 if setting.quick else 128


def our_decoding(side: str, options: Mapping[str, Any], room: Room) -> dict[str, Round]:
    """Prepare decoding with a model that has these options."""
    model = GritLM(room.setting.model, **options)
    return {side: generating(partial(ours, model, prompt_ids(model.tokenizer, PROMPT)), room)}


def transformers_decoding(room: Room) -> dict[str, Round]:
    """Prepare decoding by transformers, with the weights of our model."""
    model = GritLM(room.setting.model, dtype="bfloat16")
    generate = partial(transformers_generate, model.model, prompt_ids(model.tokenizer, PROMPT))
    return {TRANSFORMERS: generating(generate, room)}


def llama_decoding(path: Path, room: Room) -> dict[str, Round]:
    """Prepare decoding by llama.cpp."""
    peer = llama(path, room)
    ids = llamacpp.prompt(path)[:PROMPT]
    return {LLAMA: generating(partial(peer.complete, ids), room)}


def llama(path: Path, room: Room) -> llamacpp.LlamaCpp:
    return llamacpp.LlamaCpp(path, threads=room.setting.threads, context=4096)


def generating(generate: Generate, room: Room) -> Round:
    return partial(after_first, generate, new_tokens(room.setting))


def after_first(generate: Generate, tokens: int) -> Taken:
    """Return the time of the tokens after the first one."""
    first = timed(lambda: generate(1), 1)
    return less(timed(lambda: generate(tokens + 1), tokens + 1), first)


def prefill_row(setting: Setting, folder: Path, *, tokens: int) -> Row:
    """Measure the time to the logits after a prompt."""
    title = f"prefill, {tokens} tokens"
    label = f"{title}: llama.cpp"
    row = Row(title, "tokens/s", [Compared(f"{label} bf16", OURS, LLAMA, 2.0)])
    places = [Apart([OURS], partial(our_prefill, tokens))]
    theirs = partial(llama_prefill, tokens)
    places += llamacpp.apart(row, LLAMA, "bf16", setting, folder, theirs)
    repeats = 1 if tokens > 1000 else None
    return compare(row, places, setting, folder, repeats=repeats)


def our_prefill(tokens: int, room: Room) -> dict[str, Round]:
    """Prepare the prefill of a prompt."""
    model = GritLM(room.setting.model, dtype="bfloat16")
    ids = prompt_ids(model.tokenizer, tokens)

    def read() -> None:
        prefill(model.lm, prefix_cache(model.lm, None, room=tokens + 1), ids)

    return {OURS: partial(timed, read, tokens)}


def llama_prefill(tokens: int, path: Path, room: Room) -> dict[str, Round]:
    """Prepare the prefill of a prompt by llama.cpp."""
    ids = llamacpp.prompt(path)[:tokens]
    return {LLAMA: partial(timed, partial(llama(path, room).complete, ids, 1), tokens)}


def lookup(setting: Setting, folder: Path) -> Row:
    """Measure answers that quote their passage, with and without drafts."""
    title = "prompt lookup, answers that quote"
    row = Row(title, "tokens/s", [Compared(f"{title}: ours without", WITH, WITHOUT, 2.0)])
    count = len(quoting(setting))
    row.notes.append(f"{count} questions, at most 64 tokens, without the first pieces")
    return compare(row, [Apart([WITH, WITHOUT], answering)], setting, folder, warmups=0)


def quoting(setting: Setting) -> list[str]:
    """Return questions about the example passages."""
    lines = (CORPUS.parent / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines[: 2 if setting.quick else 8]]


def answering(room: Room) -> dict[str, Round]:
    """Prepare answers with and without drafts, by one engine."""
    model = GritLM(room.setting.model, dtype="bfloat16")
    place = room.closing.enter_context(tempfile.TemporaryDirectory())
    engine = room.closing.enter_context(RagEngine.open(place, model))
    engine.add(CORPUS)
    asked = quoting(room.setting)
    most = SamplingParams().prompt_lookup_num_tokens
    return {WITH: partial(quoted, engine, asked, most), WITHOUT: partial(quoted, engine, asked, 0)}


def quoted(engine: Any, asked: list[str], most: int) -> Taken:
    """Return the time of the answers after their first pieces."""
    sampling = SamplingParams(64, prompt_lookup_num_tokens=most)
    options = replace(AnswerOptions(), sampling=sampling)
    found = []
    for text in asked:
        stream = iter(engine.stream(QUOTE.format(text), options))
        pieces = [next(stream, "")]
        taken = timed(lambda: pieces.extend(stream), 0)  # noqa: B023 - called before the next turn
        size = len(engine.model.tokenizer("".join(pieces))["input_ids"])
        found.append(replace(taken, amount=size - 1))
    return Taken(*(sum(getattr(t, name) for t in found) for name in ("wall", "cpu", "amount")))


def ours(model: GritLM, ids: list[int], tokens: int) -> list[int]:
    """Generate by the loop under ``chat``, without end tokens and drafts."""
    sampler = SamplingParams().sampler()
    return list(complete(model.lm, ids, sampler=sampler, max_new_tokens=tokens))


def transformers_generate(model: Any, ids: list[int], tokens: int) -> object:
    """Generate by transformers, whose forward pass is its own."""
    rows = torch.tensor([ids])
    return model.generate(
        rows,
        attention_mask=torch.ones_like(rows),
        pad_token_id=0,
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        do_sample=False,
    )
