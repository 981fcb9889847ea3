"""Part ``correctness``: a GPU computes what a CPU computes, on all paths of the language model."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from benchmarks.gpu_parts.machine import Machine, explained, release, wide_folder
from benchmarks.gpu_parts.reporting import Report, require
from gritlm import GritLM, gritlm_instruction
from gritlm.errors import GritLMError
from gritlm.lm.attention import packed
from gritlm.lm.generator import complete, prefill, prefix_cache
from gritlm.lm.kv.row_batch import RowBatch
from gritlm.lm.kv.slot_memory import obstacle
from gritlm.lm.sampling import SamplingParams
from gritlm.rag.fusion import read_question
from gritlm.rag.reuse.reuse_check import check

TEXTS = ["The quick brown fox", "Water", "Cats sleep most of the day. " * 8, "Ann has a ball"]
HEADER = gritlm_instruction("Find similar texts")
FORMATS = ("int8", "nf4", "fp8")
NEW = 20  # tokens


def run(machine: Machine, report: Report) -> None:
    checks = {
        "vectors, float32: GPU and CPU": vectors,
        "vectors, half precision: flash kernel and one text after the other": flash_kernel,
        "greedy text, float32: ours and transformers": greedy,
        "stored state, causal: moved blocks and one pass": partial(reuse, causal=True),
        "stored state, bidirectional: moved blocks and one pass": partial(reuse, causal=False),
        "KV blocks on the GPU and from main memory": blocks_from_memory,
        "batched decoding: two slots and one text alone": slots,
        "rows with padding: a question behind three passages": rows,
        "sampling with a seed, penalties and a bias": sampling,
    }
    for name, one in checks.items():
        report.attempt(name, partial(one, machine))
    for name in FORMATS:
        report.attempt(f"quantised weights, {name}", partial(quantised, machine, name))
    release()


def load(machine: Machine, dtype: str, device: str | None = None) -> GritLM:
    return GritLM(wide_folder(machine), dtype=dtype, device=device or machine.device)


def vectors(machine: Machine) -> str:
    here, cpu = (load(machine, "float32", device) for device in (None, "cpu"))
    ours, theirs = (model.encode(TEXTS, instruction=HEADER) for model in (here, cpu))
    gap = float(np.abs(ours - theirs).max())
    return require(gap < 1e-4, f"largest difference {gap:.1e}")


def flash_kernel(machine: Machine) -> str:
    model = load(machine, "bfloat16")
    calls: list[int] = []
    kernel = packed._varlen
    has_kernel = packed._has_varlen_kernel
    try:
        packed._varlen = lambda *given: calls.append(1) or kernel(*given)  # type: ignore[func-returns-value]
        ours = model.encode(TEXTS, instruction=HEADER)
        packed._has_varlen_kernel = lambda _: False
        looped = model.encode(TEXTS, instruction=HEADER)
    finally:
        packed._varlen = kernel
        packed._has_varlen_kernel = has_kernel
    least = float((ours * looped).sum(axis=1).min())
    require(bool(calls) or machine.rehearse, "the kernel was not called")
    return require(least > 0.999, f"least cosine {least:.5f}, {len(calls)} calls of the kernel")


def greedy(machine: Machine) -> str:
    model = load(machine, "float32")
    ids_1L = torch.randint(3, 400, (1, 11), generator=torch.Generator().manual_seed(2))
    ids_1L = ids_1L.to(machine.device)
    theirs = model.model.generate(
        ids_1L,
        attention_mask=torch.ones_like(ids_1L),
        max_new_tokens=NEW,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )[0, 11:].tolist()
    ours = written(model, ids_1L[0].tolist())
    same = sum(a == b for a, b in zip(ours, theirs, strict=True))
    return require(same == NEW, f"{same} of {NEW} tokens are the same")


def written(model: GritLM, ids: list[int], kv: object = None, **params: object) -> list[int]:
    """Return the tokens that follow a prompt."""
    sampler = SamplingParams(**params).sampler(prompt_ids=ids)  # type: ignore[arg-type]
    return list(complete(model.lm, ids, kv=kv, sampler=sampler, max_new_tokens=NEW))  # type: ignore[arg-type]


def reuse(machine: Machine, *, causal: bool) -> str:
    notes = []
    for dtype in ("float32", "bfloat16"):
        model = load(machine, dtype)
        found = check(model.lm, bos=[1], causal=causal)
        notes.append(f"{dtype} {found.difference:.2g} of at most {found.tolerance:g}")
        require(found.holds, notes[-1])
    return ", ".join(notes)


def blocks_from_memory(machine: Machine) -> str:
    model = load(machine, "float32")
    _, blocks = model.encode(TEXTS[:2], get_cache=True)
    elsewhere = [block.to(device="cpu") for block in blocks]
    ids = model.chat_ids("What sleeps?", start=False)
    with torch.inference_mode():
        ours, theirs = (
            prefill(model.lm, prefix_cache(model.lm, kv, room=len(ids)), ids).cpu()
            for kv in (blocks, elsewhere)
        )
    gap = float((ours - theirs).abs().max())
    return require(gap < 1e-4, f"largest difference of logits {gap:.1e}")


def slots(machine: Machine) -> str:
    notes = []
    for dtype in ("float32", "bfloat16"):
        found = obstacle(load(machine, dtype).lm)
        require(found is None, f"{dtype}: {found}")
        notes.append(dtype)
    return "as by a step alone in " + " and ".join(notes)


def rows(machine: Machine) -> str:
    model = load(machine, "float32")
    _, blocks = model.encode(TEXTS[:3], get_cache=True)
    ids = model.chat_ids("What sleeps?", start=False)
    span = (1, len(ids))
    together = read_question(RowBatch(model.lm, [*blocks, None], room=len(ids)), ids, span)
    alone = [
        read_question(RowBatch(model.lm, [block], room=len(ids)), ids, span)[0]
        for block in (*blocks, None)
    ]
    gap = float(np.abs(np.subtract(together, alone)).max())
    return require(gap < 1e-3, f"largest difference of log-probabilities {gap:.1e}")


def sampling(machine: Machine) -> str:
    here, cpu = (load(machine, "float32", device) for device in (None, "cpu"))
    params = {
        "temperature": 0.8,
        "seed": 5,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.01,
        "repetition_penalty": 1.2,
        "frequency_penalty": 0.5,
        "presence_penalty": 0.5,
        "logit_bias": {7: 1.5, 9: -2.0},
    }
    ids = here.chat_ids("What sleeps?")
    ours, theirs = (written(model, ids, **params) for model in (here, cpu))
    same = sum(a == b for a, b in zip(ours, theirs, strict=True))
    return require(same == NEW, f"{same} of {NEW} tokens as on the CPU")


def quantised(machine: Machine, name: str) -> str:
    plain = load(machine, "bfloat16")
    try:
        model = GritLM(
            wide_folder(machine), dtype="bfloat16", device=machine.device, quantization=name
        )
    except GritLMError as error:  # the message has the library or hardware that is missing
        raise explained(error) from None
    ours, theirs = (each.encode(TEXTS, instruction=HEADER) for each in (model, plain))
    least = float((ours * theirs).sum(axis=1).min())
    return require(least > 0.9, f"least cosine to the plain weights {least:.4f}")
