"""The folder of a run: claimed once, never overwritten by accident, gone on from on demand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gritlm.errors import InputError
from gritlm.train.config import (
    DataConfig,
    LossConfig,
    ModelConfig,
    RagConfig,
    TrainConfig,
    TrainingConfig,
)
from gritlm.train.data import skipped
from gritlm.train.run import checkpoint, metrics_log

FILE = "run.json"

# The trained model: of another kind than the next one, it would be loaded in its place.
_MODEL = (
    "*.safetensors*",
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "gritlm.json",
)

# What may differ between a run and its continuation: it changes nothing that is computed.
_FREE = {
    "training.output_dir",
    "training.resume_from_checkpoint",
    "training.overwrite_output_dir",
    "training.save_steps",
    "training.save_total_limit",
    "training.logging_steps",
    "training.report_to",
    "training.device",
    "training.timeout_s",
    "training.distribution",
    "training.sharded_checkpoints",
    "training.token_budget",
    "training.gradient_checkpointing",
    "training.use_liger",
    "evaluation.embedding",
    "evaluation.generative",
    "evaluation.eval_steps",
    # compared as rows a step of all processes together
    "training.per_device_train_batch_size",
    "training.per_device_generative_bs",
    "training.gradient_accumulation_steps",
}


def claim(run: TrainConfig) -> Path | None:
    """The checkpoint to go on from; None to start anew in a folder that holds no other run.

    Raises:
        InputError: when the folder holds a run and nothing says what to do with it, when there is
            no checkpoint to go on from, or the folder cannot be made.
    """
    said = run.training
    output = Path(said.output_dir)
    if run.model.base and output.exists() and _is_same(output, run.model.base):
        raise InputError(f"output_dir = {output} is the folder of model.base; choose another one")
    if said.resume_from_checkpoint:
        chosen = _chosen(output, said.resume_from_checkpoint)
        foreign = chosen.resolve().parent != output.resolve()
        if not (foreign and _holds_run(output)) or said.overwrite_output_dir:
            return chosen
    if _holds_model(output) and not (output / FILE).exists():
        raise InputError(
            f"output_dir = {output} holds a model that no run has made; choose another folder"
        )
    if _holds_run(output) and not said.overwrite_output_dir:
        raise InputError(
            f"output_dir = {output} already holds a run; go on with it (resume_from_checkpoint = "
            "true), throw it away (overwrite_output_dir = true), or choose another folder"
        )
    return None


def prepare(run: TrainConfig, *, done: int = 0) -> None:
    """Make the folder, empty of what came before this run, or behind its ``done`` steps.

    Raises:
        InputError: when it cannot be written.
    """
    output = Path(run.training.output_dir)
    before = (
        (*_MODEL, metrics_log.FILE, metrics_log.PLOT, skipped.FILE, "trouble-*.jsonl")
        if not done
        else ()
    )
    try:
        output.mkdir(parents=True, exist_ok=True)
        for path in checkpoint.checkpoints(output):
            if checkpoint.step_of(path) > done:  # gone on from an earlier one
                shutil.rmtree(path)
        for old in (old for pattern in before for old in output.glob(pattern)):
            old.unlink()
        (output / FILE).write_text(json.dumps(asdict(run), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"output_dir = {output} cannot be written: {error}") from error


def settings(run: TrainConfig, size: int) -> dict[str, Any]:
    """What a continuation must agree on, by dotted name, as JSON gives it back."""
    said = run.training
    each = said.gradient_accumulation_steps * size
    table = json.loads(json.dumps(asdict(run)))
    found = {name: value for name, value in _flat(table) if name not in _FREE}
    found["embedding rows a step"] = said.per_device_train_batch_size * each
    found["generative rows a step"] = said.per_device_generative_bs * each
    return found


def require_same(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Refuse to go on with other settings; one that is new since the checkpoint had its default.

    Raises:
        InputError: naming each that differs.
    """
    before = {**{name: value for name, value in _defaults() if name in now}, **before}
    differing = [
        f"{name} was {before.get(name)!r} and is {now.get(name)!r}"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]
    if differing:
        raise InputError(
            f"{folder} was made with other settings: {'; '.join(differing)}; use those, or start "
            "anew in another output_dir"
        )


def _defaults() -> Iterator[tuple[str, Any]]:
    sections = (
        DataConfig(),
        ModelConfig(),
        LossConfig(),
        RagConfig(),
        TrainingConfig(output_dir=""),
    )
    table = {type(section).__name__.lower(): asdict(section) for section in sections}
    return _flat(json.loads(json.dumps(table)))


def _chosen(output: Path, asked: bool | str) -> Path:
    if isinstance(asked, str):
        return Path(asked)
    found = checkpoint.checkpoints(output)
    if not found:
        raise InputError(
            f"resume_from_checkpoint = true, but {output} holds no checkpoint; start anew without "
            "it, or name one"
        )
    return found[-1]


def _holds_run(output: Path) -> bool:
    """A start that failed before its first step leaves none."""
    return _holds_model(output) or bool(checkpoint.checkpoints(output) or metrics_log.read(output))


def _holds_model(output: Path) -> bool:
    return any(True for pattern in _MODEL for _ in output.glob(pattern))


def _is_same(output: Path, base: str) -> bool:
    return Path(base).exists() and output.samefile(base)


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
