"""Opening of a store: writer lock, manifest and index."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from gritlm.errors import InputError
from gritlm.rag.kvstore import manifest
from gritlm.rag.kvstore.errors import StoreLockedError, full, is_full
from gritlm.rag.kvstore.lmdb.reader import IndexReader
from gritlm.rag.kvstore.manifest import Manifest
from gritlm.rag.kvstore.reads import RecordAccess
from gritlm.rag.kvstore.record import ALIGN
from gritlm.rag.kvstore.writer import StoreWriter
from gritlm.runtime import file_mode, private_folder

if TYPE_CHECKING:
    from gritlm.rag.identity import ModelIdentity

LOCK = "writer.lock"
_LEAST_BYTES = 16 * ALIGN


class WriterLock:
    """Exclusive lock, held from construction to :meth:`release` or the end of the process.

    Raises:
        StoreLockedError: if another process holds the lock; the message names the process.
        OSError: if the lock file cannot be written; the lock is then free.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, file_mode(path.parent))
        try:
            self._hold(path.parent)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Release the lock by closing its file; in a forked child the parent keeps the lock."""
        os.close(self._file)

    def _hold(self, store: Path) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(os.pread(self._file, 4096, 0))
            raise StoreLockedError(
                f"{store}: another writer holds this store ({holder}); wait for it to end, "
                "or open the store with read_only=True"
            ) from None
        since = datetime.now().astimezone().isoformat(timespec="seconds")
        process = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, json.dumps(process).encode(), 0)


def open_reader(
    folder: Path, maker: ModelIdentity | None, *, storage: str, dtype: torch.dtype | None
) -> tuple[Manifest, RecordAccess]:
    """Open an existing store for reading; another process may write to it."""
    found = manifest.load_or_create(folder, maker, storage=storage, dtype=dtype, create=False)
    return found, RecordAccess(folder, IndexReader(folder))


def open_writer(
    folder: Path,
    maker: ModelIdentity | None,
    *,
    storage: str,
    dtype: torch.dtype | None,
    disk_bytes: int | None,
) -> tuple[Manifest, RecordAccess, WriterLock]:
    """Open a store for writing; create a missing store if a model is given.

    Args:
        folder: folder of the store.
        maker: identity of the model; None for maintenance of an existing store.
        storage: number format on disk, or "auto".
        dtype: number format of the model.
        disk_bytes: new byte budget of the segments; None keeps the store's.

    Returns:
        Manifest, record access, and the writer lock that the caller releases.

    Raises:
        InputError: if the store does not fit the arguments, or the system denies access.
        StoreLockedError: if another process writes to the store.
    """
    if disk_bytes is not None and disk_bytes < _LEAST_BYTES:
        raise InputError(f"disk_bytes is {disk_bytes}; expected at least {_LEAST_BYTES}")
    if maker is None:
        manifest.load_or_create(folder, maker, storage=storage, dtype=dtype, create=False)
    try:
        private_folder(folder)
        lock = WriterLock(folder / LOCK)
    except OSError as error:
        raise refused(folder, error, to_be="written to") from None
    try:
        found = manifest.load_or_create(folder, maker, storage=storage, dtype=dtype, create=True)
        found = manifest.set_budget(folder, found, disk_bytes)
        writer = StoreWriter(folder, disk_bytes=found.disk_bytes)
        return found, RecordAccess(folder, writer.transactions, writer), lock
    except OSError as error:
        lock.release()
        raise refused(folder, error, to_be="opened") from None
    except BaseException:
        lock.release()
        raise


def refused(folder: Path, error: OSError, *, to_be: str) -> InputError:
    """Return the error for a folder to which the system denies access."""
    if is_full(error):
        return full(folder, error)
    return InputError(f"{folder} cannot be {to_be}: {error}")


def _holder(text: bytes) -> str:
    try:
        holder = json.loads(text)
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        return "its process is not recorded"
