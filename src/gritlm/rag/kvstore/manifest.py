"""``store.json``: whose blocks a store keeps, and in which number format."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from gritlm.errors import InputError, choice
from gritlm.rag.kvstore.codec import NAMES, STORAGES
from gritlm.rag.kvstore.segments import FOLDER as ARENAS
from gritlm.rag.kvstore.segments import segments
from gritlm.runtime import replacing, sync

if TYPE_CHECKING:
    from gritlm.rag.identity import ModelIdentity

FILE = "store.json"
VERSION = 1
DISK_BYTES = 10 * 2**30  # of a new store


@dataclass(frozen=True)
class Manifest:
    """What a store says of itself.

    Attributes:
        model: fingerprint of the weights whose blocks it keeps.
        digest: of all else that a block depends on.
        name: of the model, for messages.
        storage: number format of the blocks on disk.
        disk_bytes: the most that arenas take.
    """

    version: int
    model: str
    digest: str
    name: str
    storage: str
    disk_bytes: int


def settle(
    folder: Path,
    maker: ModelIdentity | None,
    *,
    storage: str,
    dtype: torch.dtype | None,
    create: bool,
) -> Manifest:
    """Read what the store says and hold it against who opens it; write it for a new store.

    Raises:
        InputError: for another model, format or version, and where there is no store to read.
    """
    choice(storage, ("auto", *STORAGES), name="storage")
    if not (folder / FILE).exists():
        if maker is None or not create:
            raise InputError(f"{folder} holds no store; make one with `gritlm index`")
        return _new(folder, maker, storage if storage != "auto" else _storage_of(dtype))
    found = _read(folder / FILE)
    if maker is not None and (maker.model, maker.digest) != (found.model, found.digest):
        raise InputError(
            f"{folder}: this store was made by {found.name} (weights {found.model}, formats "
            f"{found.digest}), the model that came is {maker.name} (weights {maker.model}, formats "
            f"{maker.digest}); open it with the model that made it, or use another folder"
        )
    if storage not in ("auto", found.storage):
        raise InputError(
            f"{folder}: this store keeps its blocks as {found.storage}, storage={storage!r} came; "
            "leave storage out, or use another folder"
        )
    return found


def _new(folder: Path, maker: ModelIdentity, storage: str) -> Manifest:
    if segments(folder / ARENAS):
        raise InputError(
            f"{folder}: {FILE} is missing beside arenas that are there; put it back, or use "
            "another folder"
        )
    return _written(
        folder, Manifest(VERSION, maker.model, maker.digest, maker.name, storage, DISK_BYTES)
    )


def with_budget(folder: Path, found: Manifest, disk_bytes: int | None) -> Manifest:
    """The same with another budget, which is written down; None leaves it as it is."""
    if disk_bytes in (None, found.disk_bytes):
        return found
    return _written(folder, replace(found, disk_bytes=disk_bytes))


def _written(folder: Path, about: Manifest) -> Manifest:
    with replacing(folder / FILE) as temporary:
        temporary.write_text(json.dumps(asdict(about), indent=2) + "\n", encoding="utf-8")
    sync(folder)
    return about


def _storage_of(dtype: torch.dtype | None) -> str:
    if dtype not in NAMES:
        raise InputError(
            f"storage='auto' keeps a new store in the model's number format, dtype={dtype} came; "
            f"expected one of {', '.join(NAMES.values())}, or a storage by name"
        )
    return NAMES[dtype]


def _read(path: Path) -> Manifest:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        version = values["version"]
        if version != VERSION:
            raise InputError(
                f"{path}: a store of version {version}, this gritlm reads {VERSION}; use the "
                "gritlm that made it, or add the documents to another folder"
            )
        return Manifest(**values)
    except (OSError, ValueError, TypeError, KeyError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path} cannot be read ({error}); put it back, or add the documents to another folder"
        ) from None
