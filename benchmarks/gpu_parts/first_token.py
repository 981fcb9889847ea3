"""Part ``ttft``: time to the first token behind a document, cached and fresh."""

from __future__ import annotations

from functools import partial

import torch

from benchmarks.gpu_parts.machine import Machine, in_memory, release
from benchmarks.gpu_parts.reporting import Report, require
from gritlm import GritLM
from gritlm.lm.generator import prefill, prefix_cache
from gritlm.lm.kv.block import KVBlock

QUESTION = 24  # tokens


def run(machine: Machine, report: Report) -> None:
    for layers in machine.pick((4, 16), (1,)):
        report.attempt(f"{layers} layers", partial(measure, machine, report, layers))
        release()


def measure(machine: Machine, report: Report, layers: int) -> None:
    machine.require_time(20)
    model = in_memory(machine, layers)
    for size in machine.pick((4096, 32_768), (64, 128)):
        name = f"{layers} layers, document of {size} tokens"
        report.attempt(name, partial(document, machine, report, model, (name, size)))
        release()


def document(machine: Machine, report: Report, model: GritLM, side: tuple[str, int]) -> str:
    """Measure the first token behind one document.

    Args:
        side: name of the rows, and tokens of the document.
    """
    name, size = side
    generator = torch.Generator().manual_seed(size)
    vocabulary = model.lm.vocabulary_size
    ids = torch.randint(3, vocabulary, (size + QUESTION,), generator=generator).tolist()
    text, question = ids[:size], ids[size:]
    text_T = torch.tensor(text, device=machine.device)
    with torch.inference_mode():
        causal = model.lm.causal_block(text_T)
        _, (both_ways,) = model.lm.hidden_and_blocks(text_T, [size])
    fresh = first_token(model, None, ids)
    seconds = machine.seconds_of(lambda: first_token(model, None, ids), repeats=3)
    report.figure(f"{name}, fresh", 1000 * seconds, "ms")
    sides = {
        "causal block on the device": causal,
        "bidirectional block on the device": both_ways,
        "causal block from main memory": causal.to(device="cpu"),
    }
    for kind, block in sides.items():
        taken = machine.seconds_of(partial(first_token, model, block, question), repeats=5)
        report.figure(f"{name}, {kind}", 1000 * taken, "ms", f"{seconds / taken:.1f}x faster")
    cached = first_token(model, causal, question)
    cosine = float(torch.cosine_similarity(cached.float(), fresh.float(), dim=0))
    return require(cosine > 0.99, f"cosine of the logits, cached and fresh, {cosine:.5f}")


@torch.inference_mode()
def first_token(model: GritLM, block: KVBlock | None, ids: list[int]) -> torch.Tensor:
    """Return the logits behind a block and token ids, and draw a token from them."""
    cache = prefix_cache(model.lm, block, room=len(ids) + 1)
    logits_V = prefill(model.lm, cache, ids)
    int(logits_V.argmax())  # waits for the device
    return logits_V
