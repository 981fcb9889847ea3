"""How much memory GradCache takes for a batch, each size in a process of its own."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import train_ours
from common import passages_with_titles, peak_memory
from train_ours import TEMPERATURE

from gritlm.lm.tokens import Prompt
from gritlm.train.objectives import gradcache, losses
from gritlm.train.trainer import Trainer

# Short texts, since what counts here is their number, and all of one length: for each new shape the
# libraries below keep code and buffers for good, and then the warm-up has seen the only one.
LENGTH = 4
WARM_UP = 64  # pairs, two mini-batches of the default budget


@dataclass(frozen=True)
class Asked:
    """One measurement: so many pairs at once.

    Attributes:
        budget: most tokens of a mini-batch (fewer on a CPU, as in training).
        kept: most tokens whose graphs are kept from the first pass.
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


def growths(asked: Sequence[Asked]) -> list[Measured]:
    """One after the other, each in a fresh process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
        return list(pool.map(measured, asked))


def measured(asked: Asked) -> Measured:
    """Peak memory of one step over the state before, in which gradients are there."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = train_ours.trainer(
            Path(folder) / "ours",
            asked.model,
            pairs=train_ours.pairs(2),
            length=64,
            row=64,
            budget=asked.budget,
        )
    at_once = min(trainer.contrast.at_once, asked.budget)
    device = trainer.parts.trainee.device
    prompts = short_prompts(trainer, 2 * asked.rows)
    queries = prompts[: asked.rows]
    passages = prompts[asked.rows :]

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
            kept=asked.kept,
        )

    step(min(WARM_UP, asked.rows))
    return Measured(LENGTH * len(prompts), at_once, peak_memory(lambda: step(asked.rows)))


def short_prompts(trainer: Trainer, count: int) -> list[Prompt]:
    """Real text cut into pieces, without a header; from its start again when it is used up."""
    text = " ".join(passage["text"] for passage in passages_with_titles())
    ids = trainer.parts.tokens.pieces([text], first=False)[0]
    starts = [number * LENGTH % (len(ids) - LENGTH) for number in range(count)]
    return [Prompt(ids[start : start + LENGTH], pooled=(0, LENGTH)) for start in starts]
