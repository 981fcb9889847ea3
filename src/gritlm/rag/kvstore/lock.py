"""One writer at a time: a lock on a file that names who holds it."""

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
    """Held from its making until :meth:`release`, or until the process ends in whatever way.

    Raises:
        StoreLockedError: naming who holds it.
        OSError: when its file cannot be written; then nobody holds it.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, file_mode(path.parent))
        try:
            self._hold(path.parent)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Closing is enough, and a forked child that does it takes nothing from its parent."""
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
        about = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, json.dumps(about).encode(), 0)


def _holder(text: bytes) -> str:
    try:
        about = json.loads(text)
        return f"process {about['pid']} on {about['host']} since {about['since']}"
    except (ValueError, KeyError, TypeError):
        return "it has not said who it is"
