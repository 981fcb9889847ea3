"""Part ``decode``: sequences in KV slots, against continuous batching of transformers."""

from __future__ import annotations

import time
from copy import deepcopy
from functools import partial
from typing import Any

import torch

from benchmarks.gpu_parts.machine import Machine, in_memory, release
from benchmarks.gpu_parts.reporting import Report, SkippedError
from gritlm import GritLM
from gritlm.lm.continuous import greedy_answers


def run(machine: Machine, report: Report) -> None:
    for layers in machine.pick((4, 16), (1,)):
        report.attempt(f"{layers} layers", partial(measure, machine, report, layers))
        release()


def measure(machine: Machine, report: Report, layers: int) -> None:
    machine.require_time(30)
    model = in_memory(machine, layers)
    peer = deepcopy(model.model)  # its attention is exchanged
    new = machine.pick(128, 4)
    for count in machine.pick((1, 8, 32), (2,)):
        prompts = _prompts(machine, count)
        name = f"{layers} layers, {count} sequences"
        ours = _rate(machine, partial(_ours, model, prompts, new))
        report.figure(f"{name}, gritlm", ours, "tokens/s", f"prompts of {len(prompts[0])} tokens")
        report.attempt(
            f"{name}, transformers",
            partial(_against, machine, report, peer, (name, ours, new), prompts),
        )


def _prompts(machine: Machine, count: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(count)
    size = machine.pick(128, 12)
    return torch.randint(3, 400, (count, size), generator=generator).tolist()


def _ours(model: GritLM, prompts: list[list[int]], new: int) -> int:
    found = greedy_answers(model, prompts, until=(), max_new_tokens=new, slots=len(prompts))
    return sum(map(len, found))


def _against(
    machine: Machine, report: Report, peer: Any, side: tuple[str, float, int], prompts: list[Any]
) -> None:
    """Measure ``generate_batch`` of transformers on the same prompts.

    Args:
        peer: the model of transformers.
        side: name of the row, our tokens a second, and new tokens of a sequence.
        prompts: token ids of the prompts.
    """
    name, ours, new = side
    if not hasattr(peer, "generate_batch"):
        raise SkippedError("this transformers has no generate_batch")
    if machine.rehearse:
        raise SkippedError("continuous batching of transformers needs a GPU")
    theirs = _rate(machine, partial(_theirs, peer, prompts, new))
    report.figure(f"{name}, gritlm / transformers", ours / theirs, "x", f"{theirs:.0f} tokens/s")


def _theirs(model: Any, prompts: list[list[int]], new: int) -> int:
    from transformers import GenerationConfig

    settings = GenerationConfig(
        max_new_tokens=new, do_sample=False, eos_token_id=-1, pad_token_id=0
    )
    found = model.generate_batch(inputs=prompts, generation_config=settings, progress_bar=False)
    return sum(len(each.generated_tokens) for each in found.values())


def _rate(machine: Machine, run: Any) -> float:
    """Return the tokens a second of the best of three runs, after one without a clock."""
    rates = []
    for turn in range(machine.pick(4, 2)):
        machine.synchronize()
        start = time.perf_counter()
        tokens = run()
        machine.synchronize()
        if turn:
            rates.append(tokens / (time.perf_counter() - start))
    return sorted(rates)[len(rates) // 2]
