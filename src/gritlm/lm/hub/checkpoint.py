"""Which checkpoint a name means, and how one is written."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedTokenizerBase

from gritlm.errors import ModelError
from gritlm.lm.hub import default_model, export, lora
from gritlm.lm.hub.model_config import PROJECTION_FILE, ModelSettings
from gritlm.lm.unified import UnifiedLM

log = logging.getLogger(__name__)


def resolve(name: str | Path | None, adapter: str | Path | None) -> tuple[str, str | None]:
    """Base checkpoint and adapter that a name means.

    Args:
        name: a folder, a hub id, or one of two words: ``default`` (None too) for the default
            model, ``base`` for its base alone. An adapter's folder names its base itself.
        adapter: takes the place of the one that ``name`` brings.

    Raises:
        DownloadError: when the base of the default model is needed and cannot be fetched.
        ModelError: for an adapter folder that names no base.
    """
    chosen = None if adapter is None else str(adapter)
    if name is None or name == default_model.DEFAULT:
        return str(default_model.ensure()), chosen or str(default_model.ADAPTER)
    if name == default_model.BASE:
        return str(default_model.ensure()), chosen
    if lora.is_adapter_folder(str(name)) and chosen is None:
        return _base_of(str(name)), str(name)
    return str(name), chosen


def _base_of(adapter: str) -> str:
    base = lora.base_named(adapter)
    if base is None:
        raise ModelError(
            f"{adapter}: the adapter names no base model; pass it: GritLM(BASE, adapter=...)"
        )
    return str(default_model.ensure()) if default_model.is_base(base) else base


def projection(
    sources: Sequence[str | Path | None], settings: ModelSettings, lm: UnifiedLM
) -> nn.Linear | None:
    """The projection before pooling: from the first folder that has one, else new.

    A new one is random and always the same.

    Raises:
        ModelError: when the file is damaged or of another size.
    """
    if settings.projection is None:
        return None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = nn.Linear(int(lm.config.hidden_size), settings.projection)
    paths = [Path(source) / PROJECTION_FILE for source in sources if source is not None]
    path = next((path for path in paths if path.is_file()), None)
    if path is not None:
        try:
            layer.load_state_dict(load_file(path))
        except (RuntimeError, OSError, SafetensorError) as error:
            raise ModelError(
                f"{path}: does not fit projection={settings.projection}: {error}"
            ) from None
    else:
        log.warning("projection=%d is new and untrained", settings.projection)
    return layer.to(device=lm.device, dtype=lm.dtype).requires_grad_(False)


def save(
    lm: UnifiedLM,
    tokenizer: PreTrainedTokenizerBase,
    settings: ModelSettings,
    projection: nn.Linear | None,
    folder: Path,
) -> None:
    """Write model, tokenizer and settings; files take their places only when all are written.

    Raises:
        OSError: when they cannot be written; what was in the folder is then still there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    staging = folder / f".saving-{os.getpid()}"
    try:
        lm.causal.save_pretrained(staging)
        tokenizer.save_pretrained(staging)
        settings.save(staging)
        head = None if projection is None else projection.state_dict()
        if head is not None:
            save_file(head, staging / PROJECTION_FILE)
        reason = export.obstacle(lm, settings)
        export.write(staging, lm.config, settings, head, obstacle=reason)
        join(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def join(work: Path, folder: Path) -> None:
    """Move all files and folders of ``work`` into ``folder``, over those of the same names."""
    for path in sorted(work.iterdir()):
        target = folder / path.name
        if target.is_dir():
            shutil.rmtree(target)
        path.replace(target)
