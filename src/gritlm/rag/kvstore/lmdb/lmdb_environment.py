"""LMDB environments: one for each folder and process, shared by all who open it.

LMDB forbids a second one over the same files within a process, and a reader and a writer of one
store may well meet there. A reader that may not write cannot enter LMDB's table of readers: a
writer would reuse pages under it, which ends the process. It reads copies of the file.
"""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb

META_BYTES = 2 * 4096  # LMDB's two meta pages: they change with every commit

_TXNID = 144  # where a meta page has the number of its transaction
_BUSY_S = 5.0  # after which a file that a writer never leaves alone is given up

_Identity = tuple[int, int]  # device and inode of the data file


class LmdbEnvironment:
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

    def close(self) -> None:
        self.env.close()

    def _begin(self, *, write: bool) -> lmdb.Transaction[bytes]:
        try:
            return self.env.begin(write=write)
        except lmdb.MapResizedError:
            self.env.set_mapsize(0)  # another process let it grow: take over its size
            return self.env.begin(write=write)


class Copied(LmdbEnvironment):
    """The environment of a folder that may only be read: a copy, made again after each commit."""

    def __init__(self, folder: Path, identity: _Identity) -> None:
        self._data = folder / "data.mdb"
        self._folder = tempfile.TemporaryDirectory(prefix="gritlm-index-")
        self._number = 0
        try:
            super().__init__(self._copied(), identity)
        except BaseException:
            self._folder.cleanup()
            raise

    @contextmanager
    def reading(self) -> Iterator[lmdb.Transaction[bytes]]:
        with self.lock:
            if self._data.exists() and _meta(self._data) != self._seen:
                old = self.env
                self.env = self._copied()
                old.close()
            with self.env.begin() as transaction:
                yield transaction

    def close(self) -> None:
        super().close()
        self._folder.cleanup()

    def _copied(self) -> lmdb.Environment:
        """A copy that holds one commit whole.

        A writer leaves the pages of its last commit, and of the one before it, as they are.

        Raises:
            lmdb.Error: when it cannot be made.
        """
        self._number += 1
        target = Path(self._folder.name, str(self._number))
        end = time.monotonic() + _BUSY_S
        try:
            while True:
                with self._data.open("rb") as source, target.open("wb") as copy:
                    meta = source.read(META_BYTES)
                    copy.write(meta)
                    shutil.copyfileobj(source, copy)
                if _transaction(_meta(self._data)) <= _transaction(meta) + 1:
                    break
                if time.monotonic() > end:
                    raise lmdb.Error("a writer changes it faster than it can be copied")
            self._seen = meta
            return lmdb.open(str(target), subdir=False, readonly=True, lock=False)
        except OSError as error:
            raise lmdb.Error(f"its copy cannot be made: {error}") from None
        finally:
            target.unlink(missing_ok=True)  # LMDB has it open


_open: dict[_Identity, LmdbEnvironment] = {}  # of this process: LMDB's rule, not ours
_lock = threading.Lock()


def acquire(folder: Path, *, create: bool, map_bytes: int) -> LmdbEnvironment:
    """The environment of a folder, opened if nobody in this process has it open.

    Readers open it for writing too where they may: LMDB keeps a table of who reads in the folder.
    """
    with _lock:
        found = _open.get(identity(folder) or (-1, -1))
        if found is None:
            found = _opened(folder, create=create, map_bytes=map_bytes)
            _open[found.identity] = found
        found.users += 1
        return found


def _opened(folder: Path, *, create: bool, map_bytes: int) -> LmdbEnvironment:
    here = identity(folder)
    if not create and not _writable(folder):
        if here is None:
            raise lmdb.Error(f"{folder}: there is no index")
        return Copied(folder, here)
    mode = folder.parent.stat().st_mode & 0o777
    env = lmdb.open(str(folder), map_size=map_bytes, create=create, mode=mode)
    here = identity(folder)
    assert here is not None
    return LmdbEnvironment(env, here)


def _writable(folder: Path) -> bool:
    """Whether LMDB can register a reader there."""
    files = [folder / name for name in ("data.mdb", "lock.mdb")]
    places = [folder, *(path for path in files if path.exists())]
    return all(os.access(path, os.W_OK) for path in places)


def _meta(data: Path) -> bytes:
    with data.open("rb") as file:
        return file.read(META_BYTES)


def _transaction(meta: bytes) -> int:
    """The number of the last commit."""
    page = META_BYTES // 2
    if len(meta) < META_BYTES:
        return 0
    return max(struct.unpack_from("=Q", meta, start + _TXNID)[0] for start in (0, page))


def release(environment: LmdbEnvironment) -> None:
    """Close it when nobody uses it any more."""
    with _lock:
        environment.users -= 1
        if not environment.users:
            _open.pop(environment.identity, None)
            environment.close()


def identity(folder: Path) -> _Identity | None:
    """Which file the data of this folder is; None when there is none."""
    try:
        found = (folder / "data.mdb").stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
