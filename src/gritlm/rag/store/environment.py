"""LMDB environments: one for each folder and process, shared by all who open it.

LMDB forbids a second one over the same files within a process, and a reader and a writer of one
store may well meet there.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb

_Identity = tuple[int, int]  # device and inode of the data file


class Environment:
    """A shared LMDB environment; transactions of one process go one after the other."""

    def __init__(self, env: lmdb.Environment, identity: _Identity) -> None:
        self.env = env
        self.identity = identity
        self.users = 0
        self.lock = threading.RLock()

    @contextmanager
    def reading(self) -> Iterator[lmdb.Transaction[bytes]]:
        with self.lock, self._begin(write=False) as transaction:
            yield transaction

    def write(self, puts: dict[bytes, bytes], deletes: set[bytes]) -> None:
        """All of it, durable, or nothing. The map grows when it is full."""
        with self.lock:
            while True:
                try:
                    with self._begin(write=True) as transaction:
                        for key in deletes:
                            transaction.delete(key)
                        for key, value in puts.items():
                            transaction.put(key, value)
                    return
                except lmdb.MapFullError:
                    self.env.set_mapsize(2 * self.env.info()["map_size"])

    def _begin(self, *, write: bool) -> lmdb.Transaction[bytes]:
        try:
            return self.env.begin(write=write)
        except lmdb.MapResizedError:
            self.env.set_mapsize(0)  # another process let it grow: take over its size
            return self.env.begin(write=write)


_open: dict[_Identity, Environment] = {}  # of this process: LMDB's rule, not ours
_lock = threading.Lock()


def acquire(folder: Path, *, create: bool, map_bytes: int) -> Environment:
    """The environment of a folder, opened if nobody in this process has it open.

    Readers open it for writing too where they may: LMDB keeps a table of who reads in the folder.
    """
    with _lock:
        found = _open.get(identity(folder) or (-1, -1))
        if found is None:
            writable = create or os.access(folder, os.W_OK)
            env = lmdb.open(
                str(folder), map_size=map_bytes, readonly=not writable, lock=writable,
                create=create,
            )  # fmt: skip
            here = identity(folder)
            assert here is not None
            found = _open[here] = Environment(env, here)
        found.users += 1
        return found


def release(environment: Environment) -> None:
    """Close it when nobody uses it any more."""
    with _lock:
        environment.users -= 1
        if not environment.users:
            _open.pop(environment.identity, None)
            environment.env.close()


def identity(folder: Path) -> _Identity | None:
    """Which file the data of this folder is; None when there is none."""
    try:
        found = (folder / "data.mdb").stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
