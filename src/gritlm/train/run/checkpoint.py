"""Checkpoints: a model folder with the state that a run needs to resume.

::

    checkpoint-000100/
      model.safetensors, ...  or adapter_model.safetensors, ...; tokenizer, gritlm.json
      training/state.json     step, position in both streams, settings of the run
      training/optimizer.pt   moments, by parameter name (tensors only, no code)
      training/random.pt      random states of all processes
      training/shards/        instead of weights and moments, with sharded_checkpoints

A checkpoint is complete or absent: it is written to a temporary folder and renamed at the end.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from gritlm.errors import InputError, one_line
from gritlm.lm.hub import export
from gritlm.lm.hub.merge import merge_trained
from gritlm.lm.hub.model_config import FILE as _SETTINGS
from gritlm.lm.hub.model_config import PROJECTION_FILE
from gritlm.lm.hub.quiet import quiet
from gritlm.lm.media import trained_towers
from gritlm.train.model import towers
from gritlm.train.model.build import TrainingParts
from gritlm.train.run import collectives, parallel, shards, staging
from gritlm.train.run.step_checks import may_lack_gradient

_STATE = "state.json"
_OPTIMIZER = "optimizer.pt"
_RANDOM = "random.pt"
_SHARDS = "shards"
_PREFIX = "model."
_NAME = "the trained adapter"  # in messages
_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
_FROM_MAIN = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)


def save(
    target: Path,
    parts: TrainingParts,
    module: Any,
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    *,
    sharded: bool,
) -> None:
    """Write a checkpoint; all processes call it.

    Args:
        target: folder of the checkpoint.
        parts: model, tokenizer and settings.
        module: the trained module, possibly wrapped by DDP or FSDP2.
        optimizer: optimizer whose moments are saved.
        state: JSON values to save: step, position in the streams, settings.
        sharded: let each process write its part of weights and moments.

    Raises:
        TrainingError: the folder cannot be written (full disk); earlier checkpoints are unchanged.
    """
    random = _random_states()
    whole = None if sharded else _whole(module, optimizer)

    def write(work: Path) -> None:
        extra = work / "training"
        if parallel.is_main():
            extra.mkdir()
            (extra / _STATE).write_text(json.dumps(dict(state), indent=2), encoding="utf-8")
            torch.save(random, extra / _RANDOM)
        if whole is None:
            with _single_process_allowed():
                state_dict_saver.save(_shards(module, optimizer), checkpoint_id=extra / _SHARDS)
        elif parallel.is_main():
            model, moments = whole
            write_model(work, parts, model)
            torch.save(moments, extra / _OPTIMIZER)

    staging.replacing(target, write)


def write_model(
    folder: Path, parts: TrainingParts, state: Mapping[str, Tensor] | None, *, merged: bool = False
) -> None:
    """Write weights or adapter, tokenizer and settings, so that ``GritLM(folder)`` loads them.

    Args:
        folder: existing folder to write to.
        parts: model, tokenizer and settings.
        state: weights of the trainee, from :func:`whole_weights`; None: the weights in memory.
        merged: write full weights with the adapter merged.
    """
    with quiet():
        _write_model(folder, parts, state, merged=merged)


def _write_model(
    folder: Path, parts: TrainingParts, state: Mapping[str, Tensor] | None, *, merged: bool
) -> None:
    trainee = parts.trainee
    inner = None
    if state is not None:
        inner = {k.removeprefix(_PREFIX): v for k, v in state.items() if k.startswith(_PREFIX)}
    if trainee.senses is not None and (merged or not trainee.adapted):
        whole = merge_trained(trainee.model, _NAME) if trainee.adapted else trainee.causal
        trainee.senses.save(whole, folder)
    elif merged and trainee.adapted:
        merge_trained(trainee.model, _NAME).save_pretrained(folder)
    elif trainee.adapted:
        trainee.model.save_pretrained(folder, state_dict=inner, save_embedding_layers=parts.resized)
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty template
        if trainee.senses is not None:
            trained_towers.write(folder, towers.trained(trainee.towers))
    else:
        trainee.model.save_pretrained(folder, state_dict=inner)
    parts.tokenizer.save_pretrained(folder)
    parts.settings.save(folder)
    head = None
    if trainee.projection is not None:
        named = state if state is not None else trainee.state_dict()
        head = {
            k.removeprefix("projection."): v.contiguous()
            for k, v in named.items()
            if k.startswith("projection.")
        }
        save_file(head, folder / PROJECTION_FILE)
    if trainee.adapted and not merged:
        export.refuse(folder, export.ADAPTER)
    else:
        config = trainee.causal.config
        export.write(folder, config, parts.settings, head, obstacle=parts.obstacle)


def whole_weights(module: Any) -> dict[str, Tensor] | None:
    """Return the gathered weights of a sharded module (main process); None if not sharded."""
    if not parallel.is_sharded(module):
        return None
    found: Any = get_model_state_dict(module, options=_WHOLE)
    return found


def restore(folder: Path, module: Any, optimizer: torch.optim.Optimizer) -> None:
    """Restore moments and random state; for a sharded checkpoint the weights too.

    Full weights are loaded when the model is built, see :func:`gritlm.train.model.build.build`.

    Args:
        folder: the checkpoint.
        module: module whose weights are restored (sharded checkpoints).
        optimizer: optimizer whose moments are restored.

    Raises:
        InputError: the checkpoint is damaged or belongs to other parameters.
    """
    extra = folder / "training"
    try:
        if (extra / _SHARDS).is_dir():
            state = _shards(module, optimizer)
            with _single_process_allowed():
                shards.load(extra / _SHARDS, state)
            set_model_state_dict(module, state["model"], options=StateDictOptions(strict=False))
            set_optimizer_state_dict(module, optimizer, state["optimizer"])
        else:
            _restore_moments(extra / _OPTIMIZER, module, optimizer)
        _restore_random(shards.load_tensors(extra / _RANDOM))
    except (Exception, CheckpointException) as error:  # a damaged file raises errors of any kind
        raise InputError(f"{folder} cannot be continued from: {_reason(error)}") from error


def _restore_moments(file: Path, module: Any, optimizer: torch.optim.Optimizer) -> None:
    """Restore the moments; for a sharded module the main process alone reads them."""

    def load() -> Any:
        found = shards.load_tensors(file)
        _require_moments(module, found["state"])
        return found

    if not parallel.is_sharded(module):
        set_optimizer_state_dict(module, optimizer, load(), options=_WHOLE)
        return
    moments: dict[str, Any] = {}
    collectives.from_main(lambda: moments.update(load()))
    set_optimizer_state_dict(module, optimizer, moments, options=_FROM_MAIN)


def _require_moments(module: nn.Module, state: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Raise an error for missing moments or wrong shapes; torch would silently use zeros.

    Args:
        module: module that is trained.
        state: state of AdamW by parameter name.
    """
    for wrapped, parameter in module.named_parameters():
        name = wrapped.removeprefix("module.")  # of DDP
        if not parameter.requires_grad or (name not in state and may_lack_gradient(name)):
            continue
        for key in ("exp_avg", "exp_avg_sq"):
            moment = state.get(name, {}).get(key)
            if moment is None or moment.shape != parameter.shape:
                found = "missing" if moment is None else f"of shape {tuple(moment.shape)}"
                raise InputError(
                    f"{key} of {name} is {found}; expected shape {tuple(parameter.shape)}"
                )


def _restore_random(states: dict[str, list[Tensor]]) -> None:
    rank = collectives.rank()
    # Copies: torch needs a state at the start of its storage.
    if rank < len(states["cpu"]):
        torch.set_rng_state(states["cpu"][rank].clone())
    if rank < len(states["cuda"]) and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"][rank].clone())


def _reason(error: BaseException) -> str:
    """Return the reason in one short line; for errors of several processes that of the first."""
    if isinstance(error, CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    text = one_line(error, limit=300)
    return text if isinstance(error, InputError) else f"{type(error).__name__}: {text}"


def read_state(folder: Path) -> dict[str, Any]:
    """Return step, position in the streams and settings of a checkpoint.

    Raises:
        InputError: the folder is no checkpoint of a run, or is damaged.
    """
    path = folder / "training" / _STATE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{folder} is no checkpoint of a training run ({error})") from None
    kinds = {"step": int, "feed": dict, "settings": dict}
    for key, kind in kinds.items():
        if not isinstance(found, dict) or type(found.get(key)) is not kind:
            raise InputError(f"{path} has no {key!r} that can be used; the checkpoint is damaged")
    for name in () if is_sharded(folder) else (_SETTINGS, "tokenizer_config.json"):
        if not (folder / name).is_file():
            raise InputError(f"{folder} has no {name}; the checkpoint is damaged, use another one")
    if found["step"] < 1:
        raise InputError(f"{path} has step = {found['step']}; expected at least 1")
    return dict(found)


def is_sharded(folder: Path) -> bool:
    return (folder / "training" / _SHARDS).is_dir()


def checkpoints(output: Path) -> list[Path]:
    """Return the finished checkpoints of a run, oldest first; renamed folders are ignored."""
    found = (path for path in output.glob("checkpoint-*") if path.is_dir())
    return sorted((path for path in found if path.name[11:].isdigit()), key=step_of)


def step_of(path: Path) -> int:
    """Return the step after which a checkpoint was written."""
    return int(path.name.removeprefix("checkpoint-"))


def prune(output: Path, keep: int | None) -> None:
    """Remove all but the newest ``keep`` checkpoints."""
    if keep is not None and parallel.is_main():
        for old in checkpoints(output)[:-keep]:
            shutil.rmtree(old)


def _whole(module: Any, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
    return whole_weights(module), get_optimizer_state_dict(module, optimizer, options=_WHOLE)


def _shards(module: Any, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    kept = StateDictOptions(ignore_frozen_params=True)
    return {
        "model": get_model_state_dict(module, options=kept),
        "optimizer": get_optimizer_state_dict(module, optimizer),
    }


@contextmanager
def _single_process_allowed() -> Iterator[None]:
    """Suppress the warning of torch for shards written or read by a single process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        yield


def _random_states() -> dict[str, list[Tensor]]:
    """Return the random states of all processes by device type, ordered by rank."""
    own = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        own["cuda"] = torch.cuda.get_rng_state()
    found = {name: list(collectives.gathered(state[None])) for name, state in own.items()}
    return {"cuda": [], **found}
