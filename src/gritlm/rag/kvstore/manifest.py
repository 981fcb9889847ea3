"""Manifest of a store, ``store.json``: its model, number format and byte budget."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from gritlm.atomic import replacing, sync
from gritlm.errors import InputError, choice
from gritlm.rag.kvstore.errors import OtherModelError
from gritlm.rag.kvstore.record import NAMES, STORAGES
from gritlm.rag.kvstore.segments import FOLDER as ARENAS
from gritlm.rag.kvstore.segments import segments

if TYPE_CHECKING:
    from gritlm.rag.identity import ModelIdentity

FILE = "store.json"
VERSION = 1
DISK_BYTES = 10 * 2**30  # byte budget of a new store


@dataclass(frozen=True)
class Manifest:
    """Identity and settings of a store.

    Attributes:
        version: version of the store's file formats.
        model: fingerprint of the weights that the blocks were made with.
        digest: digest of everything else that a block depends on.
        name: name of the model, for messages.
        storage: number format of the blocks on disk.
        disk_bytes: byte budget of the segments.
    """

    version: int
    model: str
    digest: str
    name: str
    storage: str
    disk_bytes: int


def load_or_create(
    folder: Path,
    maker: ModelIdentity | None,
    *,
    storage: str,
    dtype: torch.dtype | None,
    create: bool,
) -> Manifest:
    """Return the manifest of a store after comparing it with the model; create it if new.

    Args:
        folder: folder of the store.
        maker: identity of the model; None to open an existing store without its model.
        storage: number format, or "auto".
        dtype: number format of the model, for a new store with ``storage="auto"``.
        create: create the manifest if the folder holds no store.

    Raises:
        InputError: if the store has another model, number format or version, or if it does not
            exist and is not to be created.
    """
    choice(storage, ("auto", *STORAGES), name="storage")
    if not (folder / FILE).exists():
        if maker is None or not create:
            raise InputError(f"{folder} holds no store; create one with `gritlm index`")
        return _create(folder, maker, storage if storage != "auto" else _storage_of(dtype))
    found = _read(folder / FILE)
    if maker is not None and (maker.model, maker.digest) != (found.model, found.digest):
        raise OtherModelError(
            f"{folder}: this store was made by {found.name} (weights {found.model}, formats "
            f"{found.digest}), the model that came is {maker.name} (weights {maker.model}, formats "
            f"{maker.digest}); open it with the model that made it, or use another folder"
        )
    if storage not in ("auto", found.storage):
        raise InputError(
            f"{folder}: this store keeps its blocks as {found.storage}, not as {storage!r}; leave "
            "storage out, or use another folder"
        )
    return found


def _create(folder: Path, maker: ModelIdentity, storage: str) -> Manifest:
    if segments(folder / ARENAS):
        raise InputError(
            f"{folder}: {FILE} is missing, but there are segments; put it back, or use another "
            "folder"
        )
    return _save(
        folder, Manifest(VERSION, maker.model, maker.digest, maker.name, storage, DISK_BYTES)
    )


def read(folder: Path) -> Manifest | None:
    """Return the manifest of a store; None if the folder holds no store.

    Raises:
        InputError: for a manifest that cannot be read, or of another version.
    """
    return _read(folder / FILE) if (folder / FILE).exists() else None


def set_budget(folder: Path, found: Manifest, disk_bytes: int | None) -> Manifest:
    """Return the manifest with another byte budget, saved to disk; None keeps the budget."""
    if disk_bytes in (None, found.disk_bytes):
        return found
    return _save(folder, replace(found, disk_bytes=disk_bytes))


def _save(folder: Path, manifest: Manifest) -> Manifest:
    with replacing(folder / FILE) as temporary:
        temporary.write_text(json.dumps(asdict(manifest), indent=2) + "\n", encoding="utf-8")
    sync(folder)
    return manifest


def _storage_of(dtype: torch.dtype | None) -> str:
    if dtype not in NAMES:
        raise InputError(
            f"storage='auto' uses the model's number format for a new store, which is {dtype}; "
            f"expected {', '.join(NAMES.values())}; pass another model or name a storage"
        )
    return NAMES[dtype]


def _read(path: Path) -> Manifest:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        version = values["version"]
        if version != VERSION:
            raise InputError(
                f"{path}: the store has version {version}, this gritlm reads version {VERSION}; "
                "use the gritlm that made it, or add the documents to another folder"
            )
        return Manifest(**values)
    except (OSError, ValueError, TypeError, KeyError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path} cannot be read ({error}); put it back, or add the documents to another folder"
        ) from None
