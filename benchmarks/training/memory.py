"""Memory of GradCache for batches of several sizes, each measured in its own process."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from benchmarks.common import passages_with_titles, peak_memory
from benchmarks.training import ours
from benchmarks.training.ours import TEMPERATURE

from gritlm.lm.tokens import Prompt
from gritlm.train.objectives import gradcache, losses
from gritlm.train.trainer import Trainer

# Short texts, since only their number matters here, and all of one length: the libraries below
# cache code and buffers for each shape, and the warm-up has then seen the only shape.
LENGTH = 4
WARM_UP = 64  # pairs, two mini-batches of the default budget


@dataclass(frozen=True)
class MemoryCase:
    """Settings of one measurement.

    Attributes:
        model: folder of the model; None for the default model.
        rows: number of pairs in the batch.
        budget: maximum number of tokens of a mini-batch (fewer on a CPU, as in training).
        kept: maximum number of tokens whose graphs are kept from the first pass.
    """

    model: str | None
    rows: int
    budget: int
    kept: int


@dataclass(frozen=True)
class Measured:
    """Tokens of the batch, those of a mini-batch at most, and the growth in bytes."""

    tokens: int
    at_once: int
    growth: int


def growths(cases: Sequence[MemoryCase]) -> list[Measured]:
    """Return the measurement of each case, one after the other, each in a new process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
        return list(pool.map(measured, cases))


def measured(case: MemoryCase) -> Measured:
    """Return the peak memory of a step above the memory before it, which includes gradients."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = ours.trainer(
            Path(folder) / "ours",
            case.model,
            pairs=ours.pairs(2),
            length=64,
            row=64,
            budget=case.budget,
        )
    at_once = min(trainer.embedding_objective.at_once, case.budget)
    device = trainer.parts.trainee.device
    prompts = short_prompts(trainer, 2 * case.rows)
    queries = prompts[: case.rows]
    passages = prompts[case.rows :]

    def step(size: int) -> None:
        gradcache.backward(
            partial(trainer.module, "embed"),
            (queries[:size], passages[:size]),
            partial(
                losses.contrastive,
                temperature=TEMPERATURE,
                positives=torch.arange(size, device=device),
            ),
            budget=at_once,
            kept=case.kept,
        )

    step(min(WARM_UP, case.rows))
    return Measured(LENGTH * len(prompts), at_once, peak_memory(lambda: step(case.rows)))


def short_prompts(trainer: Trainer, count: int) -> list[Prompt]:
    """Real text cut into pieces, without a header; from its start again when it is used up."""
    text = " ".join(passage["text"] for passage in passages_with_titles())
    ids = trainer.parts.tokens.pieces([text], first=False)[0]
    starts = [number * LENGTH % (len(ids) - LENGTH) for number in range(count)]
    return [Prompt(ids[start : start + LENGTH], pooled=(0, LENGTH)) for start in starts]
