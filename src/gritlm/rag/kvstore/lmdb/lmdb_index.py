"""The index of a store in LMDB: key -> where its record is, and what it is worth.

Each value carries a checksum over key and value. Before the files are opened they are walked by
LMDB's own verifier, since LMDB trusts what it maps: a damaged page could end the process.
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
from gritlm.rag.kvstore.record import aligned

FOLDER = "index.lmdb"
MAP_BYTES = 16 * 2**20  # to begin with

_STATE_KEY = b"state"
_CHECK = struct.Struct("<Q")
_ENTRY = struct.Struct("<IQIQIQddd")
_STATE = struct.Struct("<QId")
_TRIES = 5


@dataclass(frozen=True)
class IndexEntry:
    """Where a record is, and what is known of its use.

    Attributes:
        segment: number of the arena file.
        offset: byte at which the record begins.
        header: bytes of its header.
        payload: bytes of its payload.
        cost: of computing it again; see :mod:`gritlm.rag.kvstore.eviction`.
        age: the store's clock at its last use.
        used: seconds since 1970 at its last use.
    """

    segment: int
    offset: int
    header: int
    payload: int
    tokens: int
    hits: int
    cost: float
    age: float
    used: float

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return aligned(self.header) + aligned(self.payload)

    @property
    def end(self) -> int:
        """The byte behind the record."""
        return self.offset + self.nbytes


@dataclass(frozen=True)
class IndexState:
    """Of the store as a whole.

    Attributes:
        commit: number of the last commit.
        segment: number of the arena file that was written to then.
        clock: of ageing; see :mod:`gritlm.rag.kvstore.eviction`.
    """

    commit: int
    segment: int
    clock: float


class LmdbIndex:
    """The index, open. Made by :meth:`open`."""

    def __init__(self, folder: Path, env: lmdb_environment.LmdbEnvironment) -> None:
        self.folder = folder
        self._env = env

    @classmethod
    def open(cls, folder: Path, *, create: bool = False, map_bytes: int = MAP_BYTES) -> LmdbIndex:
        """Open the index of this folder.

        Raises:
            BrokenError: when it is not there (unless ``create``) or cannot be trusted.
            StoreFullError: when the disk takes no more.
        """
        if not create and (reason := trouble(folder)):
            raise DamagedRecordError(reason)
        return cls(folder, _acquired(folder, create=create, map_bytes=map_bytes))

    def get(self, key: bytes) -> IndexEntry | None:
        """What is known of a key; None when it is not stored.

        Raises:
            BrokenError: when its value is not what was written.
        """
        self._follow()
        try:
            with self._env.reading() as transaction:
                value = transaction.get(key)
        except lmdb.Error as error:
            raise DamagedRecordError(f"LMDB says: {error}") from None
        return None if value is None else IndexEntry(*_checked(_ENTRY, key, value))

    def read(self) -> tuple[dict[bytes, IndexEntry], IndexState]:
        """All of it.

        Raises:
            BrokenError: when a value is not what was written, or the state is missing.
        """
        self._follow()
        entries = {}
        state = None
        try:
            with self._env.reading() as transaction:
                for key, value in transaction.cursor():
                    if key == _STATE_KEY:
                        state = IndexState(*_checked(_STATE, key, value))
                    else:
                        entries[key] = IndexEntry(*_checked(_ENTRY, key, value))
        except lmdb.Error as error:
            raise DamagedRecordError(f"LMDB says: {error}") from None
        if state is None:
            raise DamagedRecordError("its state is missing")
        return entries, state

    def write(
        self, puts: Mapping[bytes, IndexEntry], deletes: Iterable[bytes], state: IndexState
    ) -> None:
        """One durable commit: all of it or nothing.

        Raises:
            StoreFullError: when the disk takes no more.
            IndexDamagedError: when LMDB finds its files damaged.
        """
        values = {key: _sealed(key, _ENTRY.pack(*_fields(entry))) for key, entry in puts.items()}
        packed = _STATE.pack(state.commit, state.segment, state.clock)
        values[_STATE_KEY] = _sealed(_STATE_KEY, packed)
        try:
            self._env.write(values, set(deletes) - values.keys())
        except (lmdb.Error, OSError) as error:
            short = getattr(error, "code", 0) == errno.EIO  # LMDB's word for half a write
            problem = full if short or is_full(error) else damaged_index
            raise problem(self.folder.parent, error) from None

    def close(self) -> None:
        lmdb_environment.release(self._env)

    def _follow(self) -> None:
        """Open the files anew when a writer in another process has put new ones in their place."""
        if lmdb_environment.identity(self.folder) in (None, self._env.identity):
            return
        old = self._env
        self._env = _acquired(self.folder, create=False, map_bytes=MAP_BYTES)
        lmdb_environment.release(old)


def _acquired(folder: Path, *, create: bool, map_bytes: int) -> lmdb_environment.LmdbEnvironment:
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


def _sealed(key: bytes, value: bytes) -> bytes:
    return value + _CHECK.pack(xxh3_64_intdigest(key + value))


def _checked(form: struct.Struct, key: bytes, value: bytes) -> tuple[Any, ...]:
    body = value[: form.size]
    if len(value) != form.size + _CHECK.size or _sealed(key, body) != value:
        raise DamagedRecordError(f"the value of {key.hex()[:16]} is not what was written")
    return form.unpack(body)


def trouble(folder: Path) -> str | None:
    """Walk the files without LMDB -> what is wrong with them.

    A writer may be at work meanwhile. It never touches what its last commit needs, so what was
    found stands unless a commit came in between; then it is looked at again.
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
