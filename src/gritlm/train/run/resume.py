"""Output folder of a run: checks before a start, preparation, resumption.

The trainer calls :func:`claim` first, then :func:`settings` and :func:`require_same` to compare a
run with its checkpoint, and :func:`prepare` before the first step.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gritlm.config import differences
from gritlm.errors import InputError
from gritlm.train.config import (
    DataConfig,
    LossConfig,
    ModelConfig,
    RagConfig,
    SourceConfig,
    TrainConfig,
    TrainingConfig,
)
from gritlm.train.data import skipped
from gritlm.train.run import checkpoint, metrics_log

FILE = "run.json"  # settings of the run, in the output folder

# Files of a trained model. An old one of another kind would be loaded instead of the new one.
_MODEL = (
    "*.safetensors*",
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "gritlm.json",
)

_SOURCES = [
    f"{section}.{name}"
    for section in ("data", "evaluation")
    for name in ("embedding", "generative", "rag")
]

# Settings that may change on resumption: they do not change the results.
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
    # compared as the rows of a step over all processes
    "training.per_device_train_batch_size",
    "training.per_device_generative_bs",
    "training.gradient_accumulation_steps",
}


def claim(run: TrainConfig) -> Path | None:
    """Check the output folder and return the checkpoint to resume from; None for a new run.

    Raises:
        InputError: the folder holds a run and the settings neither resume nor overwrite it, or
            there is no checkpoint to resume from.
    """
    training = run.training
    output = Path(training.output_dir)
    if run.model.base and output.exists() and _is_same(output, run.model.base):
        raise InputError(f"output_dir = {output} is the folder of model.base; choose another one")
    if training.resume_from_checkpoint:
        chosen = _checkpoint_of(output, training.resume_from_checkpoint)
        foreign = chosen.resolve().parent != output.resolve()
        if not (foreign and _holds_run(output)) or training.overwrite_output_dir:
            return chosen
    if _holds_model(output) and not (output / FILE).exists():
        raise InputError(
            f"output_dir = {output} holds a model that no run has made; choose another folder"
        )
    if _holds_run(output) and not training.overwrite_output_dir:
        raise InputError(
            f"output_dir = {output} already holds a run; resume it (resume_from_checkpoint = "
            "true), overwrite it (overwrite_output_dir = true), or choose another folder"
        )
    return None


def prepare(run: TrainConfig, *, done: int = 0) -> None:
    """Create the output folder, without files of an earlier run or later checkpoints.

    Args:
        run: settings of the run, written to the folder.
        done: steps done before; checkpoints of later steps are removed. 0 also removes the model
            and the logs of an earlier run.

    Raises:
        InputError: the folder cannot be written.
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
            if checkpoint.step_of(path) > done:  # the run resumes from an earlier checkpoint
                shutil.rmtree(path)
        for old in (old for pattern in before for old in output.glob(pattern)):
            old.unlink()
        (output / FILE).write_text(json.dumps(asdict(run), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"output_dir = {output} cannot be written: {error}") from error


def settings(run: TrainConfig, size: int) -> dict[str, Any]:
    """Return the settings that a resumed run must keep, by dotted name, as JSON values.

    Args:
        run: settings of the run.
        size: number of processes.
    """
    training = run.training
    factor = training.gradient_accumulation_steps * size
    table = json.loads(json.dumps(asdict(run)))
    found = {name: value for name, value in _flat(table) if name not in _FREE}
    found["embedding rows a step"] = training.per_device_train_batch_size * factor
    found["generative rows a step"] = training.per_device_generative_bs * factor
    return found


def require_same(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Raise an error if settings changed; a setting missing in the checkpoint had its default.

    Args:
        before: settings of the checkpoint.
        now: settings of this run.
        folder: the checkpoint, for the message.

    Raises:
        InputError: the message names each setting that differs.
    """
    before = {**{name: value for name, value in _defaults() if name in now}, **before}
    before |= {name: _with_defaults(before[name]) for name in _SOURCES if name in before}
    if differing := differences(before, now):
        raise InputError(
            f"{folder} was made with other settings: {'; '.join(differing)}; use those, or start "
            "a new run in another output_dir"
        )


def _with_defaults(sources: Any) -> Any:
    """Return the sources of a checkpoint with the defaults of settings that it does not have."""
    return [asdict(SourceConfig(path="")) | source for source in sources] if sources else sources


def _defaults() -> Iterator[tuple[str, Any]]:
    table = {
        "data": asdict(DataConfig()),
        "model": asdict(ModelConfig()),
        "loss": asdict(LossConfig()),
        "rag": asdict(RagConfig()),
        "training": asdict(TrainingConfig(output_dir="")),
    }
    return _flat(json.loads(json.dumps(table)))


def _checkpoint_of(output: Path, chosen: bool | str) -> Path:
    if isinstance(chosen, str):
        return Path(chosen)
    found = checkpoint.checkpoints(output)
    if not found:
        raise InputError(
            f"resume_from_checkpoint = true, but {output} holds no checkpoint; start without "
            "it, or name one"
        )
    return found[-1]


def _holds_run(output: Path) -> bool:
    """Return whether a folder holds a run that got as far as its first step."""
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
