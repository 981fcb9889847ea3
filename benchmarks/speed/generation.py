"""Rows of generation: decoding and prefill of one sequence, and drafts from the prompt."""

from __future__ import annotations

import importlib.util
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import CORPUS, mixed_texts
from benchmarks.speed import llamacpp
from benchmarks.speed.measure import Compared, Row, Setting, Taken, alternate, less, timed
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

Generate = Callable[[int], object]


def decode_bfloat16(setting: Setting, weights: Path) -> Row:
    """Measure decoding in bfloat16."""
    model = GritLM(setting.model, dtype="bfloat16")
    ids = prompt(model, PROMPT)
    title = "decode, one stream, bf16"
    peers = {f"{title}: transformers": (TRANSFORMERS, 2.0), f"{title}: {LLAMA} bf16": (LLAMA, 1.0)}
    row = Row(title, "tokens/s", both_sides(peers))
    sides: dict[str, Generate] = {OURS: partial(ours, model, ids)}
    add_compiled(row, sides, setting, dtype="bfloat16")
    sides[TRANSFORMERS] = partial(transformers_generate, model.model, ids)
    add_llama(row, sides, model, weights, "bf16", setting)
    return measured(row, sides, setting)


def decode_quantized(setting: Setting, weights: Path, *, ours_in: str, theirs_in: str) -> Row:
    """Measure decoding with quantised weights."""
    plain = GritLM(setting.model, dtype="bfloat16")
    model = GritLM(setting.model, quantization=ours_in)
    title = f"decode, one stream, {ours_in}"
    peers = {f"{title}: {LLAMA} {theirs_in.upper()}": (LLAMA, 1.0)}
    row = Row(title, "tokens/s", both_sides(peers))
    sides: dict[str, Generate] = {OURS: partial(ours, model, prompt(model, PROMPT))}
    if ours_in == "int4":
        row.missing[COMPILED] = "int4 has no compiled steps"
    else:
        add_compiled(row, sides, setting, quantization=ours_in)
    add_llama(row, sides, plain, weights, theirs_in, setting)
    return measured(row, sides, setting)


def both_sides(peers: dict[str, tuple[str, float]]) -> list[Compared]:
    """Return the ratios of our plain and compiled steps over each peer."""
    return [
        Compared(f"{label}{note}", side, peer, wanted)
        for label, (peer, wanted) in peers.items()
        for side, note in ((OURS, ""), (COMPILED, NOTE))
    ]


def add_compiled(row: Row, sides: dict[str, Generate], setting: Setting, **options: Any) -> None:
    """Add our compiled steps to the sides, or the reason why they are missing."""
    if importlib.util.find_spec("numba") is None:
        row.missing[COMPILED] = NO_NUMBA
        return
    model = GritLM(setting.model, compile=True, **options)
    sides[COMPILED] = partial(ours, model, prompt(model, PROMPT))


def measured(row: Row, sides: dict[str, Generate], setting: Setting) -> Row:
    """Return a row with the time of each token after the first one."""
    tokens = 32 if setting.quick else 128
    runs = {name: partial(after_first, side, tokens) for name, side in sides.items()}
    row.taken = alternate(runs, setting.repeats)
    row.notes.append(f"prompt of {PROMPT} tokens, {tokens} new ones, without the first")
    return row


def after_first(generate: Generate, tokens: int) -> Taken:
    """Return the time of the tokens after the first one."""
    first = timed(lambda: generate(1), 1)
    return less(timed(lambda: generate(tokens + 1), tokens + 1), first)


def prefill_row(setting: Setting, weights: Path, *, tokens: int) -> Row:
    """Measure the time to the logits after a prompt."""
    model = GritLM(setting.model, dtype="bfloat16")
    ids = prompt(model, tokens)
    title = f"prefill, {tokens} tokens"
    label = f"{title}: llama.cpp"
    row = Row(title, "tokens/s", [Compared(f"{label} bf16", OURS, LLAMA, 2.0)])
    sides: dict[str, Generate] = {OURS: lambda _: prefill(model.lm, empty(model, tokens), ids)}
    add_llama(row, sides, model, weights, "bf16", setting, tokens)
    runs = {name: partial(prefilled, side, tokens) for name, side in sides.items()}
    row.taken = alternate(runs, 1 if tokens > 1000 else setting.repeats)
    return row


def prefilled(generate: Generate, tokens: int) -> Taken:
    return timed(lambda: generate(1), tokens)


def lookup(setting: Setting, _: Path) -> Row:
    """Measure answers that quote their passage, with and without drafts."""
    model = GritLM(setting.model, dtype="bfloat16")
    title = "prompt lookup, answers that quote"
    compared = [Compared(f"{title}: ours without", "with drafts", "without drafts", 2.0)]
    row = Row(title, "tokens/s", compared)
    with tempfile.TemporaryDirectory() as folder, RagEngine.open(folder, model) as engine:
        engine.add(CORPUS)
        lines = (CORPUS.parent / "questions.jsonl").read_text(encoding="utf-8").splitlines()
        asked = [json.loads(line)["text"] for line in lines[: 2 if setting.quick else 8]]
        drafts = {"with drafts": SamplingParams().prompt_lookup_num_tokens, "without drafts": 0}
        sides = {name: partial(quoted, engine, asked, most) for name, most in drafts.items()}
        row.taken = alternate(sides, setting.repeats, warmups=0)
    row.notes.append(f"{len(asked)} questions, at most 64 tokens, without the first pieces")
    return row


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


def add_llama(
    row: Row,
    sides: dict[str, Generate],
    model: GritLM,
    weights: Path,
    kind: str,
    setting: Setting,
    size: int = PROMPT,
) -> None:
    """Add llama.cpp to the sides, or the reason why it is missing."""
    if not llamacpp.is_installed():
        row.missing[LLAMA] = llamacpp.ABSENT
        return
    path = llamacpp.write_weights(model, weights, kind)
    peer = llamacpp.LlamaCpp(path, threads=setting.threads, context=4096)
    ids = prompt(model, size)
    sides[LLAMA] = lambda tokens: peer.complete(ids, tokens)


def empty(model: GritLM, tokens: int) -> Any:
    return prefix_cache(model.lm, None, room=tokens + 1)


def prompt(model: GritLM, tokens: int) -> list[int]:
    """Return the ids of natural text."""
    text = " ".join(mixed_texts(120))
    ids: list[int] = model.tokenizer(text, verbose=False)["input_ids"][:tokens]
    if len(ids) < tokens:
        raise RuntimeError(f"the example texts have {len(ids)} tokens, {tokens} are needed")
    return ids
