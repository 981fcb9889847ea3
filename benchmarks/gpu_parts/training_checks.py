"""Part ``training``: losses of all steps: GPU and CPU, bfloat16, one kernel, FSDP, Liger, QLoRA."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests import tiny
from tests.train import runs

from benchmarks.gpu_parts.machine import Machine, explained, release
from benchmarks.gpu_parts.reporting import Report, SkippedError, require
from gritlm.errors import MissingExtraError
from gritlm.train.config import TrainConfig
from gritlm.train.run import checkpoint, collectives, metrics_log
from gritlm.train.trainer import train

HALF = 0.05  # bound of losses in bfloat16


def run(machine: Machine, report: Report) -> None:
    checks = {
        "float32: GPU and CPU": devices,
        "bfloat16 and float32": half,
        "texts without padding by one kernel, and padded": kernel,
        "gradient checkpointing": recomputed,
        "resumed from a checkpoint": resumed,
        "FSDP of one process": partial(sharded, bf16=False),
        "FSDP of one process, bfloat16": partial(sharded, bf16=True),
        "Liger kernels": liger,
        "adapters over four bits": four_bits,
    }
    for number, (name, one) in enumerate(checks.items()):
        folder = machine.folder / f"training-{number}"
        with unplotted():
            report.attempt(name, partial(one, machine, folder))
    release()


@contextmanager
def unplotted() -> Iterator[None]:
    """Leave out the plot of a run, which needs matplotlib."""
    with (
        patch.object(metrics_log, "find_spec", lambda name: name),
        patch.object(metrics_log, "plot", lambda folder: folder),
    ):
        yield


def made(machine: Machine, folder: Path, **training: Any) -> TrainConfig:
    """Return a run of a few steps of a tiny model with heads of 64, with RAG rows."""
    if not (folder / "llama").exists():
        tiny.folder(folder / "llama", hidden_size=256, num_attention_heads=4, head_dim=64)
    steps = {"device": machine.device, "max_steps": machine.pick(3, 2)}
    return runs.make(folder, rag=True, training=steps | training)


def course(first: TrainConfig, second: TrainConfig, bound: float) -> str:
    """Train twice and compare losses and gradient norms of every step."""
    train(first, progress=False)
    train(second, progress=False)
    return compared(first, second, bound)


def compared(first: TrainConfig, second: TrainConfig, bound: float) -> str:
    ours, theirs = runs.losses(first), runs.losses(second)
    require(len(ours) == len(theirs) > 0, f"{len(ours)} and {len(theirs)} steps")
    worst = max(_gaps(one, other) for one, other in zip(ours, theirs, strict=True))
    return require(worst <= bound, f"largest relative difference {worst:.1e}, at most {bound:g}")


def _gaps(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    return max(abs(one[key] - other[key]) / max(abs(other[key]), 1e-6) for key in other)


def devices(machine: Machine, folder: Path) -> str:
    run = made(machine, folder)
    return course(run, runs.elsewhere(run, "cpu", device="cpu"), 1e-3)


def half(machine: Machine, folder: Path) -> str:
    run = made(machine, folder)
    return course(run, runs.elsewhere(run, "half", bf16=True), HALF)


def kernel(machine: Machine, folder: Path) -> str:
    padded = made(machine, folder, bf16=True)
    unpadded = runs.make(
        folder,
        rag=True,
        model={"attn_implementation": "gritlm_both"},
        training={
            "device": machine.device,
            "max_steps": padded.training.max_steps,
            "bf16": True,
            "output_dir": str(folder / "unpadded"),
        },
    )
    return course(padded, unpadded, HALF)


def recomputed(machine: Machine, folder: Path) -> str:
    run = made(machine, folder)
    return course(run, runs.elsewhere(run, "again", gradient_checkpointing=True), 1e-3)


def resumed(machine: Machine, folder: Path) -> str:
    """Train through, and the same run from the checkpoint of its first step."""
    run = made(machine, folder, save_steps=1)
    train(run, progress=False)
    whole = runs.losses(run)
    for late in checkpoint.checkpoints(Path(run.training.output_dir))[1:]:
        late.rename(folder / late.name)
    train(runs.elsewhere(run, "out", resume_from_checkpoint=True), progress=False)
    again = runs.losses(run)
    worst = max(_gaps(one, other) for one, other in zip(again, whole, strict=True))
    return require(worst <= 1e-3, f"largest relative difference {worst:.1e}")


def sharded(machine: Machine, folder: Path, *, bf16: bool) -> str:
    """Train in a process group of one that shards, gathers and saves as a larger one."""
    plain = made(machine, folder, bf16=bf16)
    fsdp = runs.elsewhere(
        plain, "fsdp", distribution="fsdp", sharded_checkpoints=True, save_steps=1
    )
    train(plain, progress=False)
    address = (folder / "group").resolve().as_uri()
    alone = patch.object(collectives, "together", lambda: True)
    with collectives.group(None, init_method=address, rank=0, size=1), alone:
        train(fsdp, progress=False)
    saved = checkpoint.checkpoints(Path(fsdp.training.output_dir))
    require(bool(saved) and all(map(checkpoint.is_sharded, saved)), f"checkpoints {saved}")
    return compared(plain, fsdp, HALF if bf16 else 1e-3)


def liger(machine: Machine, folder: Path) -> str:
    if machine.rehearse:
        raise SkippedError("Liger kernels need a GPU")
    run = made(machine, folder, bf16=True)
    try:
        return course(run, runs.elsewhere(run, "liger", use_liger=True), HALF)
    except MissingExtraError as error:
        raise explained(error) from None


def four_bits(machine: Machine, folder: Path) -> str:
    if machine.rehearse:
        raise SkippedError("qlora needs a GPU")
    if find_spec("bitsandbytes") is None:
        raise SkippedError("bitsandbytes is not installed")
    tiny.folder(folder / "llama", hidden_size=256, num_attention_heads=4, head_dim=64)
    steps = {"max_steps": 12, "learning_rate": 3e-3, "device": machine.device, "bf16": True}
    run = runs.make(folder, model={"qlora": True}, training=steps)
    train(run, progress=False)
    found = [entry["loss_emb"] for entry in runs.losses(run)]
    return require(
        sum(found[-3:]) < sum(found[:3]), f"embedding loss {found[0]:.3f} to {found[-1]:.3f}"
    )
