"""Writer lock of a store: a locked file that names the process holding it."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from datetime import datetime
from pathlib import Path

from gritlm.rag.kvstore.errors import StoreLockedError
from gritlm.runtime import file_mode


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


def _holder(text: bytes) -> str:
    try:
        holder = json.loads(text)
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        return "its process is not recorded"
