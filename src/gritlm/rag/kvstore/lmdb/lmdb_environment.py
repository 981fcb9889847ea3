"""LMDB environments: one per folder and process, shared by all readers and writers in it.

LMDB forbids two environments over the same files in one process, where a reader and a writer of one
store may meet. A reader without write permission cannot register in LMDB's reader table: a writer
would reuse the pages it reads, which crashes the process. Such a reader opens copies of the file.
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

_TXNID = 144  # offset of the transaction number in a meta page
_BUSY_S = 5.0  # seconds of retries while a writer changes the file that is copied

_Identity = tuple[int, int]  # device and inode of the data file


class LmdbEnvironment:
    """Shared LMDB environment; transactions of one process run one after another."""

    def __init__(self, env: lmdb.Environment, identity: _Identity) -> None:
        self.env = env
        self.identity = identity
        self.users = 0
        self.lock = threading.RLock()

    @contextmanager
    def reading(self) -> Iterator[lmdb.Transaction[bytes]]:
        """Open a read transaction for a ``with`` block."""
        with self.lock, self._begin(write=False) as transaction:
            yield transaction

    def write(self, puts: dict[bytes, bytes], deletes: set[bytes]) -> None:
        """Write and delete in one durable transaction; the map grows if it is full."""
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
        """Close the environment."""
        self.env.close()

    def _begin(self, *, write: bool) -> lmdb.Transaction[bytes]:
        try:
            return self.env.begin(write=write)
        except lmdb.MapResizedError:
            self.env.set_mapsize(0)  # another process grew the map: adopt its size
            return self.env.begin(write=write)


class LmdbCopy(LmdbEnvironment):
    """Environment of a folder without write permission: a copy, refreshed after each commit."""

    def __init__(self, folder: Path, identity: _Identity) -> None:
        self._data = folder / "data.mdb"
        self._folder = tempfile.TemporaryDirectory(prefix="gritlm-index-")
        self._number = 0
        try:
            super().__init__(self._open_copy(), identity)
        except BaseException:
            self._folder.cleanup()
            raise

    @contextmanager
    def reading(self) -> Iterator[lmdb.Transaction[bytes]]:
        with self.lock:
            if self._data.exists() and _meta(self._data) != self._seen:
                old = self.env
                self.env = self._open_copy()
                old.close()
            with self.env.begin() as transaction:
                yield transaction

    def close(self) -> None:
        super().close()
        self._folder.cleanup()

    def _open_copy(self) -> lmdb.Environment:
        """Copy the file in the state of one commit and open the copy.

        A writer does not change the pages of its last commit and of the one before it.

        Raises:
            lmdb.Error: if the file cannot be copied.
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
                    raise lmdb.Error("a writer changes the index faster than it can be copied")
            self._seen = meta
            return lmdb.open(str(target), subdir=False, readonly=True, lock=False)
        except OSError as error:
            raise lmdb.Error(f"the index cannot be copied: {error}") from None
        finally:
            target.unlink(missing_ok=True)  # LMDB keeps the file open


_environments: dict[_Identity, LmdbEnvironment] = {}  # of this process: LMDB's rule, not ours
_lock = threading.Lock()


def acquire(folder: Path, *, create: bool, map_bytes: int) -> LmdbEnvironment:
    """Return the environment of a folder, opened unless this process has it open already.

    Readers with write permission open it for writing too: LMDB keeps a table of readers there.

    Args:
        folder: folder of the LMDB files.
        create: create the files if they do not exist.
        map_bytes: initial size of the memory map, in bytes.
    """
    with _lock:
        found = _environments.get(identity(folder) or (-1, -1))
        if found is None:
            found = _open_environment(folder, create=create, map_bytes=map_bytes)
            _environments[found.identity] = found
        found.users += 1
        return found


def _open_environment(folder: Path, *, create: bool, map_bytes: int) -> LmdbEnvironment:
    here = identity(folder)
    if not create and not _writable(folder):
        if here is None:
            raise lmdb.Error(f"{folder}: the index does not exist")
        return LmdbCopy(folder, here)
    mode = folder.parent.stat().st_mode & 0o777
    env = lmdb.open(str(folder), map_size=map_bytes, create=create, mode=mode)
    here = identity(folder)
    assert here is not None
    return LmdbEnvironment(env, here)


def _writable(folder: Path) -> bool:
    """Return whether LMDB can register a reader in the folder."""
    files = [folder / name for name in ("data.mdb", "lock.mdb")]
    paths = [folder, *(path for path in files if path.exists())]
    return all(os.access(path, os.W_OK) for path in paths)


def _meta(data: Path) -> bytes:
    with data.open("rb") as file:
        return file.read(META_BYTES)


def _transaction(meta: bytes) -> int:
    """Return the number of the last commit."""
    page = META_BYTES // 2
    if len(meta) < META_BYTES:
        return 0
    return max(struct.unpack_from("=Q", meta, start + _TXNID)[0] for start in (0, page))


def release(environment: LmdbEnvironment) -> None:
    """Release one use of an environment, and close it after the last one."""
    with _lock:
        environment.users -= 1
        if not environment.users:
            _environments.pop(environment.identity, None)
            environment.close()


def identity(folder: Path) -> _Identity | None:
    """Return device and inode of a folder's data file; None if it does not exist."""
    try:
        found = (folder / "data.mdb").stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
