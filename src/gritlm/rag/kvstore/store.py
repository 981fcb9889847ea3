"""KVStore: key/value blocks that outlive the process, found by what was read to make them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import torch

from gritlm.errors import InputError
from gritlm.lm.kv.block import KVBlock
from gritlm.rag.kvstore import block_records, opening
from gritlm.rag.kvstore import stats as figures
from gritlm.rag.kvstore.access import RecordAccess
from gritlm.rag.kvstore.codec import FLOATS
from gritlm.rag.kvstore.errors import Damage, full
from gritlm.rag.kvstore.lock import WriterLock
from gritlm.rag.kvstore.manifest import Manifest
from gritlm.rag.kvstore.memory_cache import MemoryCache
from gritlm.rag.kvstore.stats import FetchCounts, StoreStats
from gritlm.rag.kvstore.writer import StoreWriter

if TYPE_CHECKING:
    from gritlm.rag.identity import ModelIdentity

_BATCH_BYTES = 256 * 2**20  # on disk, in one commit of put_many


class KVStore:
    """Blocks on disk under a byte budget, and those in use in memory. Made by :meth:`open`.

    One process writes, any number reads; a reader sees what is put without opening anew. Safe to
    use from several threads. What is handed out is never to be written to: it may be a view of
    the file, and others may hold the same block.

    Attributes:
        storage: number format on disk: float32, float16, bfloat16, int8 or int4.
    """

    def __init__(
        self,
        maker: ModelIdentity | None,
        found: Manifest,
        access: RecordAccess,
        *,
        memory_bytes: int,
        lock: WriterLock | None = None,
    ) -> None:
        self.about = found
        self.storage = found.storage
        self._given = maker
        self._reach = access
        self._lock = lock
        self._memory = MemoryCache(memory_bytes)
        self._fetched = {"memory": 0, "disk": 0, "missed": 0}
        self._mutex = threading.RLock()
        self._open = True

    @classmethod
    def open(
        cls,
        folder: Path,
        maker: ModelIdentity | None,
        *,
        storage: str = "auto",
        dtype: torch.dtype | None = None,
        disk_bytes: int | None = None,
        memory_bytes: int = 512 * 2**20,
        read_only: bool = False,
    ) -> KVStore:
        """Open a store, or make one.

        Args:
            maker: whose blocks it keeps; None to look after a store (verify, gc, stats, delete)
                without the model: then nothing is put or fetched.
            storage: number format on disk; "auto" for what the store has, and ``dtype`` in a new
                one.
            dtype: the model's number format.
            disk_bytes: the most that arenas take, live and dead; None for what was last given, and
                10 GiB for a new store. Of a store that is larger, the least valuable is evicted.
            memory_bytes: the most that blocks in memory take.
            read_only: beside a writer in another process.

        Raises:
            InputError: for a store of another model, format or version, and where there is none.
            StoreLockedError: when another writer holds it; the message says who.
            IndexDamagedError: when its index is damaged and this is a reader; a writer makes it
                anew.
            StoreFullError: when the disk takes no more.
        """
        if memory_bytes < 0:
            raise InputError(f"memory_bytes={memory_bytes} came; expected 0 or more")
        if read_only:
            found, access = opening.to_read(folder, maker, storage=storage, dtype=dtype)
            return cls(maker, found, access, memory_bytes=memory_bytes)
        found, access, lock = opening.to_write(
            folder, maker, storage=storage, dtype=dtype, disk_bytes=disk_bytes
        )
        return cls(maker, found, access, memory_bytes=memory_bytes, lock=lock)

    @property
    def folder(self) -> Path:
        return self._reach.folder

    @property
    def read_only(self) -> bool:
        return self._lock is None

    @property
    def damages(self) -> list[Damage]:
        """What was found damaged so far. Each such place is a miss from then on."""
        return list(self._reach.damages)

    @property
    def nbytes(self) -> int:
        """Bytes that the arenas take on disk, live and dead."""
        with self._mutex:
            return sum(self._access.index.sizes().values())

    def key(self, ids: Sequence[int], *, causal: bool) -> bytes:
        """The name of the block that reading these ids makes, as this store keeps it."""
        return self._maker.key(ids, causal=causal, storage=self.storage)

    def __contains__(self, key: bytes) -> bool:
        with self._mutex:
            return self._access.find(key) is not None

    def put(self, key: bytes, block: KVBlock) -> bool:
        """Store a block. True: it will be there after a crash. False: it was not admitted.

        Raises:
            InputError: for a block that cannot be kept; see :func:`blocks.to_record`.
            CacheMismatchError: for a block of another model.
            StoreFullError: when the disk takes no more; what was there stays readable.
        """
        return self.put_many([(key, block)]) == 1

    def put_many(self, items: Iterable[tuple[bytes, KVBlock]]) -> int:
        """Store many blocks with one sync and one commit -> how many are there now.

        Of some hundred MB at a time: then the first of them are made durable. If this ends with an
        error, what was admitted before it is durable too, unless the disk took no more.

        Raises:
            InputError, CacheMismatchError, StoreFullError: as :meth:`put`.
        """
        writer = self._writer
        stored = 0
        since = 0
        before = writer.lost
        try:
            for key, block in items:
                with self._mutex:
                    if not writer.has(key):
                        header, payload = block_records.to_record(
                            key, block, maker=self._maker, storage=self.storage
                        )
                        if not writer.append(header, payload):
                            continue
                        since += len(payload)
                    stored += 1
                    if since >= _BATCH_BYTES:
                        writer.commit()
                        since = 0
        finally:
            with self._mutex:
                writer.commit()
                lost = writer.lost - before
        if lost:  # to a commit of another thread, which took along what was pending here
            raise full(self.folder, "what was put could not be made known")
        return stored

    def fetch(self, key: bytes) -> FetchCounts | None:
        """A block at positions 0..T-1, on the CPU; None when it is not there or damaged."""
        maker = self._maker
        with self._mutex:
            found = self._fetch(key, maker)
            self._fetched["missed" if found is None else found.tier] += 1
            if found is not None and isinstance(self._access.index, StoreWriter):
                self._access.index.used(key)
            return found

    def delete(self, keys: Iterable[bytes]) -> int:
        """Remove blocks -> how many there were. gc() also takes their bytes off the disk."""
        keys = list(keys)
        writer = self._writer
        with self._mutex:
            for key in keys:
                self._memory.forget(key)
            return writer.remove(keys)

    def evict(self, nbytes: int) -> int:
        """Remove the least valuable blocks until ``nbytes`` are free -> bytes that they took."""
        with self._mutex:
            return self._writer.evict(nbytes)

    def verify(self) -> list[Damage]:
        """Read everything from the disk and check it -> what is damaged and was not known yet.

        A writer takes it out, so that it counts as missing; a reader only knows of it.
        """
        with self._mutex:
            return self._access.verify()

    def gc(self, *, checkpoint: Callable[[], None] | None = None) -> int:
        """Remove from the disk what is not live -> bytes given back.

        A segment at a time. Other threads run after each one, and ``checkpoint`` is called, which
        may use this store too.
        """
        with self._mutex:
            segments = self._writer.wasteful()
        freed = 0
        for number, segment in enumerate(segments):
            if number and checkpoint is not None:
                checkpoint()
            with self._mutex:
                freed += self._writer.gc(segment)
        return freed

    def rebuild(self) -> int:
        """Make the index anew from the arenas -> records found.

        Uses are forgotten, and what was deleted comes back until gc() has taken it off the disk.
        """
        with self._mutex:
            return self._access.rebuilt(self._writer)

    def stats(self) -> StoreStats:
        """What is stored and what this object did.

        Raises:
            IndexDamagedError: when the index cannot be read.
        """
        with self._mutex:
            return figures.gather(self.about, self._access, self._memory, self._fetched)

    def close(self) -> None:
        """Note the last uses and let go of everything. Blocks handed out stay whole."""
        with self._mutex:
            if self._open:
                self._open = False
                self._memory.clear()
                try:
                    self._reach.close()
                finally:
                    if self._lock is not None:
                        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def _access(self) -> RecordAccess:
        if not self._open:
            raise InputError(f"{self.folder}: this store was closed; open it again")
        return self._reach

    @property
    def _maker(self) -> ModelIdentity:
        if self._given is None:
            raise InputError(
                f"{self.folder} was opened without its model, to look after it; open it with the "
                "model to put and fetch blocks"
            )
        return self._given

    @property
    def _writer(self) -> StoreWriter:
        if not isinstance(self._access.index, StoreWriter):
            raise InputError(
                f"{self.folder} was opened for reading; open it without read_only to change it"
            )
        return self._access.index

    def _fetch(self, key: bytes, maker: ModelIdentity) -> FetchCounts | None:
        entry = self._access.find(key)
        if entry is None:
            self._memory.forget(key)
            return None
        kept = self._memory.get(key)
        if kept is not None:
            return FetchCounts(kept, "memory", kept.nbytes)
        found = self._access.read(key, entry)
        if found is None:
            return None
        block = block_records.from_record(*found, maker)
        return FetchCounts(self._kept(key, block), "disk", found[0].payload)

    def _kept(self, key: bytes, block: KVBlock) -> KVBlock:
        """Keep it in memory: decoded blocks at once, views of the file when asked for twice."""
        if FLOATS.get(self.storage) == block.dtype:
            if block.nbytes > self._memory.capacity or not self._memory.ask(key):
                return block
            block = replace(block, data=block.data.clone())
        self._memory.put(key, block)
        return block
