"""File of an adapter folder with trained weights of towers and projectors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gritlm.errors import InputError, ModelError
from gritlm.lm.media.senses import Senses

FILE = "towers.safetensors"


def has_file(adapter: str, hub: Mapping[str, Any] | None = None) -> bool:
    """Return whether an adapter was trained over a model with towers, by its text decoder.

    Args:
        adapter: folder or hub id.
        hub: options of ``from_pretrained`` for the download.
    """
    return _path(adapter, hub or {}) is not None


def write(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Write the trained weights, possibly none, into an adapter folder.

    Args:
        folder: the folder.
        weights: parameters of towers and projectors by name.
    """
    save_file({name: each.contiguous() for name, each in weights.items()}, folder / FILE)


def load(senses: Senses, adapter: str, hub: Mapping[str, Any] | None = None) -> None:
    """Put the trained weights of an adapter into the towers; without the file nothing is done.

    Args:
        senses: towers and projectors of the base.
        adapter: folder or hub id.
        hub: options of ``from_pretrained`` for the download.

    Raises:
        ModelError: for a damaged file, or weights of another base.
    """
    path = _path(adapter, hub or {})
    if path is None:
        return
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} is damaged ({error}); fetch it again") from None
    try:
        senses.update(weights)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None


def require_none(adapter: str, source: str) -> None:
    """Refuse an adapter with towers of its own over a base that several adapters share.

    Args:
        adapter: folder or hub id of the adapter.
        source: folder or hub id of the base.

    Raises:
        InputError: with the call that loads it.
    """
    if has_file(adapter):
        raise InputError(
            f"{adapter} has trained projectors of images or sound, which adapters over one base do "
            f"not share; load it alone: GritLM({source!r}, adapter={adapter!r})"
        )


def _path(adapter: str, hub: Mapping[str, Any]) -> Path | None:
    folder = Path(adapter)
    if folder.is_dir():
        return folder / FILE if (folder / FILE).is_file() else None
    from transformers.utils.hub import cached_file

    found = cached_file(adapter, FILE, _raise_exceptions_for_missing_entries=False, **hub)
    return None if found is None else Path(str(found))
