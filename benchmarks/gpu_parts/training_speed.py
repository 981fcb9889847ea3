"""Part ``training-speed``: tokens a second and share of the peak of whole training steps."""

from __future__ import annotations

from functools import partial

import torch

from benchmarks.gpu_parts.machine import Machine, folder_of, release, utilisation
from benchmarks.gpu_parts.reporting import Report
from benchmarks.gpu_parts.training_checks import unplotted
from benchmarks.training import ours
from gritlm.train.data.loader import Batch
from gritlm.train.trainer import Trainer


def run(machine: Machine, report: Report) -> None:
    for layers in machine.pick((1, 4), (1,)):
        with unplotted():
            report.attempt(f"{layers} layers", partial(measure, machine, report, layers))
        release()


def measure(machine: Machine, report: Report, layers: int) -> None:
    machine.require_time(25)
    trainer = ours.trainer(
        machine.folder / f"speed-{layers}",
        str(folder_of(machine, layers)),
        pairs=ours.pairs(machine.pick(256, 4)),
        chats=ours.chats(machine.pick(64, 2)),
        length=machine.pick(256, 16),
        row=machine.pick(2048, 64),
        budget=machine.pick(16_384, 128),
        bf16=not machine.rehearse,
    )
    batch = trainer.loader.next(1)
    assert batch.embedding is not None
    body, head = ours.sizes(trainer)
    lengths = [len(p.ids) for p in (*batch.embedding.queries, *batch.embedding.passages)]
    written = sum(len(sample.ids) for sample in batch.samples)
    trained = sum(end - start for sample in batch.samples for start, end in sample.trained)
    parts = {
        "embedding": (Batch(batch.embedding, []), sum(lengths), 6.0 * body * sum(lengths)),
        "generation": (
            Batch(None, batch.samples),
            written,
            6.0 * (body * written + head * trained),
        ),
    }
    for name, (part, tokens, flops) in parts.items():
        taken = machine.seconds_of(partial(step, trainer, part), repeats=machine.pick(5, 1))
        used = utilisation(machine, flops / taken)
        report.figure(f"{layers} layers, {name}", tokens / taken, "tokens/s", used)
    if not machine.rehearse:
        peak = torch.cuda.max_memory_allocated() / 2**30
        report.figure(f"{layers} layers, peak memory", peak, "GiB")


def step(trainer: Trainer, batch: Batch) -> None:
    """Run the passes of a step and the optimizer."""
    trainer.backward(batch)
    trainer.optimizer.step()
    trainer.optimizer.zero_grad(set_to_none=False)
