"""Opening a store: the lock, whose store it is, its index."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from gritlm.errors import InputError
from gritlm.rag.kvstore import manifest
from gritlm.rag.kvstore.access import RecordAccess
from gritlm.rag.kvstore.errors import full, is_full
from gritlm.rag.kvstore.lmdb.reader import IndexReader
from gritlm.rag.kvstore.lock import WriterLock
from gritlm.rag.kvstore.manifest import Manifest
from gritlm.rag.kvstore.record import ALIGN
from gritlm.rag.kvstore.writer import StoreWriter
from gritlm.runtime import private_folder

if TYPE_CHECKING:
    from gritlm.rag.identity import ModelIdentity

LOCK = "writer.lock"
_LEAST_BYTES = 16 * ALIGN


def to_read(
    folder: Path, maker: ModelIdentity | None, *, storage: str, dtype: torch.dtype | None
) -> tuple[Manifest, RecordAccess]:
    """A store that is there, beside whoever writes to it."""
    found = manifest.settle(folder, maker, storage=storage, dtype=dtype, create=False)
    return found, RecordAccess(folder, IndexReader(folder))


def to_write(
    folder: Path,
    maker: ModelIdentity | None,
    *,
    storage: str,
    dtype: torch.dtype | None,
    disk_bytes: int | None,
) -> tuple[Manifest, RecordAccess, WriterLock]:
    """A store that is there, or a new one where a model came."""
    if disk_bytes is not None and disk_bytes < _LEAST_BYTES:
        raise InputError(f"disk_bytes={disk_bytes} came; expected at least {_LEAST_BYTES}")
    if maker is None:
        manifest.settle(folder, maker, storage=storage, dtype=dtype, create=False)
    try:
        private_folder(folder)
        lock = WriterLock(folder / LOCK)
    except OSError as error:
        raise refused(folder, error, to_be="written to") from None
    try:
        found = manifest.settle(folder, maker, storage=storage, dtype=dtype, create=True)
        found = manifest.with_budget(folder, found, disk_bytes)
        return found, RecordAccess(folder, StoreWriter(folder, disk_bytes=found.disk_bytes)), lock
    except OSError as error:
        lock.release()
        raise refused(folder, error, to_be="opened") from None
    except BaseException:
        lock.release()
        raise


def refused(folder: Path, error: OSError, *, to_be: str) -> InputError:
    """Return the error of ours for a folder that the system refuses."""
    if is_full(error):
        return full(folder, error)
    return InputError(f"{folder} cannot be {to_be}: {error}")
