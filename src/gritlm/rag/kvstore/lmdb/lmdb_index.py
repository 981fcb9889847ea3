"""Index of a store in LMDB: location and use counts of each record, by key.

Each value has a checksum over key and value. LMDB's own verifier checks the files before they are
opened, because LMDB trusts the pages it maps: a damaged page could crash the process.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lmdb
from lmdb.verify import VerifyError, verify
from xxhash import xxh3_64_intdigest

from gritlm.rag.kvstore.errors import DamagedRecordError, damaged_index, full, is_full
from gritlm.rag.kvstore.lmdb import lmdb_environment
from gritlm.rag.kvstore.record import IndexEntry

FOLDER = "index.lmdb"
MAP_BYTES = 16 * 2**20  # initial size of the memory map, in bytes

_STATE_KEY = b"state"
_CHECK = struct.Struct("<Q")
_ENTRY = struct.Struct("<IQIQIQddd")
_STATE = struct.Struct("<QId")
_TRIES = 5


@dataclass(frozen=True)
class IndexState:
    """State of the store as a whole.

    Attributes:
        commit: number of the last commit.
        segment: number of the segment being written at that commit.
        clock: clock of the eviction policy; see :mod:`gritlm.rag.kvstore.eviction`.
    """

    commit: int
    segment: int
    clock: float


class LmdbIndex:
    """Open index of a store. Created by :meth:`open`."""

    def __init__(self, folder: Path, env: lmdb_environment.LmdbEnvironment) -> None:
        self.folder = folder
        self._env = env

    @classmethod
    def open(cls, folder: Path, *, create: bool = False, map_bytes: int = MAP_BYTES) -> LmdbIndex:
        """Open the index in a folder.

        Args:
            folder: folder of the LMDB files.
            create: create an empty index, without checking the files first.
            map_bytes: initial size of the memory map, in bytes.

        Raises:
            DamagedRecordError: if the index does not exist (unless ``create``) or is damaged.
            StoreFullError: if the disk is full.
        """
        if not create and (reason := find_damage(folder)):
            raise DamagedRecordError(reason)
        return cls(folder, _acquire(folder, create=create, map_bytes=map_bytes))

    def get(self, key: bytes) -> IndexEntry | None:
        """Return the entry of a key; None if it is not stored.

        Raises:
            DamagedRecordError: if the value differs from the bytes written.
        """
        self._follow()
        try:
            with self._env.reading() as transaction:
                value = transaction.get(key)
        except lmdb.Error as error:
            raise DamagedRecordError(f"LMDB says: {error}") from None
        return None if value is None else IndexEntry(*_verified(_ENTRY, key, value))

    def read(self) -> tuple[dict[bytes, IndexEntry], IndexState]:
        """Return all entries by key, and the state.

        Raises:
            DamagedRecordError: if a value differs from the bytes written, or the state is missing.
        """
        self._follow()
        entries = {}
        state = None
        try:
            with self._env.reading() as transaction:
                for key, value in transaction.cursor():
                    if key == _STATE_KEY:
                        state = IndexState(*_verified(_STATE, key, value))
                    else:
                        entries[key] = IndexEntry(*_verified(_ENTRY, key, value))
        except lmdb.Error as error:
            raise DamagedRecordError(f"LMDB says: {error}") from None
        if state is None:
            raise DamagedRecordError("its state is missing")
        return entries, state

    def write(
        self, puts: Mapping[bytes, IndexEntry], deletes: Iterable[bytes], state: IndexState
    ) -> None:
        """Write one atomic and durable commit.

        Args:
            puts: entries to add or replace, by key.
            deletes: keys to remove; keys that are in ``puts`` too are kept.
            state: new state of the store.

        Raises:
            StoreFullError: if the disk is full.
            IndexDamagedError: if LMDB reports damaged files.
        """
        values = {
            key: _with_checksum(key, _ENTRY.pack(*_fields(entry))) for key, entry in puts.items()
        }
        packed = _STATE.pack(state.commit, state.segment, state.clock)
        values[_STATE_KEY] = _with_checksum(_STATE_KEY, packed)
        try:
            self._env.write(values, set(deletes) - values.keys())
        except (lmdb.Error, OSError) as error:
            short = getattr(error, "code", 0) == errno.EIO  # LMDB's code for a short write
            problem = full if short or is_full(error) else damaged_index
            raise problem(self.folder.parent, error) from None

    def close(self) -> None:
        """Release the LMDB environment."""
        lmdb_environment.release(self._env)

    def _follow(self) -> None:
        """Reopen the files if a writer in another process has replaced them."""
        if lmdb_environment.identity(self.folder) in (None, self._env.identity):
            return
        old = self._env
        self._env = _acquire(self.folder, create=False, map_bytes=MAP_BYTES)
        lmdb_environment.release(old)


def _acquire(folder: Path, *, create: bool, map_bytes: int) -> lmdb_environment.LmdbEnvironment:
    try:
        return lmdb_environment.acquire(folder, create=create, map_bytes=map_bytes)
    except lmdb.Error as error:
        if is_full(error):
            raise full(folder.parent, error) from None
        raise DamagedRecordError(f"LMDB says: {error}") from None


def _fields(entry: IndexEntry) -> tuple[int | float, ...]:
    return (
        entry.segment,
        entry.offset,
        entry.header,
        entry.payload,
        entry.tokens,
        entry.hits,
        entry.cost,
        entry.age,
        entry.used,
    )


def _with_checksum(key: bytes, value: bytes) -> bytes:
    return value + _CHECK.pack(xxh3_64_intdigest(key + value))


def _verified(form: struct.Struct, key: bytes, value: bytes) -> tuple[Any, ...]:
    body = value[: form.size]
    if len(value) != form.size + _CHECK.size or _with_checksum(key, body) != value:
        raise DamagedRecordError(f"the checksum of the entry {key.hex()[:16]} does not match")
    return form.unpack(body)


def find_damage(folder: Path) -> str | None:
    """Verify the files without opening them in LMDB; return the first problem or None.

    A writer may commit meanwhile. It never changes the pages of its last commit, so the result is
    valid unless a commit happened during the check; then the check is repeated.
    """
    data = folder / "data.mdb"
    for _ in range(_TRIES):
        before = _meta(data)
        try:
            problems = verify(str(data), subdir=False)
        except (VerifyError, OSError) as error:
            problems = [str(error)]
        if not problems:
            return None
        if _meta(data) == before:
            return str(problems[0])
    return None


def _meta(data: Path) -> bytes:
    try:
        with data.open("rb") as file:
            return file.read(lmdb_environment.META_BYTES)
    except OSError:
        return b""
