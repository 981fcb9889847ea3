"""Resolution of model names to checkpoints, and saving of checkpoint folders."""

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

from gritlm.errors import InputError, ModelError
from gritlm.lm.hub import default_model, export, lora
from gritlm.lm.hub.model_config import PROJECTION_FILE, ModelSettings
from gritlm.lm.unified import UnifiedLM

log = logging.getLogger(__name__)


def resolve(name: str | Path | None, adapter: str | Path | None) -> tuple[str, str | None]:
    """Return the base checkpoint and the adapter of a model name.

    Args:
        name: a folder, a hub id, ``default`` or None for the default model, ``senses`` for the
            default model that also reads images and sound, or ``base`` for its base alone. The
            folder of an adapter names its base.
        adapter: folder or hub id that replaces the adapter of ``name``; ``default`` for that of the
            default model.

    Raises:
        DownloadError: for a base of the default model that cannot be downloaded.
        ModelError: for an adapter folder without the name of its base.
        InputError: for another adapter of ``senses``.
    """
    chosen = None if adapter is None else adapter_folder(adapter)
    if name == default_model.SENSES and chosen not in (None, str(default_model.ADAPTER)):
        raise InputError(
            f"model 'senses' takes no other adapter, it got {adapter}: its projectors were trained "
            "for the default model; use GritLM('default', adapter=...)"
        )
    if name in (None, default_model.DEFAULT, default_model.SENSES):
        return str(default_model.ensure()), chosen or str(default_model.ADAPTER)
    if name == default_model.BASE:
        return str(default_model.ensure()), chosen
    if lora.is_adapter_folder(str(name)) and chosen is None:
        return _base_of(str(name)), str(name)
    return str(name), chosen


def adapter_folder(name: str | Path) -> str:
    """Return the folder or hub id of an adapter; ``default`` stands for that of the default model.

    Args:
        name: folder, hub id or ``default``.
    """
    return str(default_model.ADAPTER if name == default_model.DEFAULT else name)


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
    """Return the projection before pooling, from the first folder that has one, else a new one.

    A new projection is random with a fixed seed.

    Args:
        sources: folders to search, in this order.
        settings: settings with the dimension of the projection; None for no projection.
        lm: the model, for hidden size, device and dtype.

    Raises:
        ModelError: for a file that is damaged or has another shape.
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
    *,
    embeds: bool = True,
) -> None:
    """Write model, tokenizer and settings to a folder.

    Files are moved into the folder only when all of them are written.

    Args:
        lm: the model.
        tokenizer: its tokenizer.
        settings: its settings.
        projection: layer before pooling; None for no projection.
        folder: the target.
        embeds: whether to write the files of sentence-transformers too, by which other programs
            take the folder for an embedding model.

    Raises:
        OSError: for files that cannot be written; the folder is then unchanged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    staging = folder / f".saving-{os.getpid()}"
    try:
        if lm.senses is None:
            lm.causal.save_pretrained(staging)
        else:
            lm.senses.save(lm.causal, staging)
        tokenizer.save_pretrained(staging)
        settings.save(staging)
        head = None if projection is None else projection.state_dict()
        if head is not None:
            save_file(head, staging / PROJECTION_FILE)
        if embeds:
            reason = export.obstacle(lm, settings)
            export.write(staging, lm.config, settings, head, obstacle=reason)
        join(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def join(work: Path, folder: Path) -> None:
    """Move all files and folders of ``work`` into ``folder``, replacing existing ones."""
    for path in sorted(work.iterdir()):
        target = folder / path.name
        if target.is_dir():
            shutil.rmtree(target)
        path.replace(target)
