"""KVStore: persistent KV blocks, keyed by the token ids they were prefilled from."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import wait as wait_for
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import torch

from gritlm.errors import InputError
from gritlm.lm.kv.block import KVBlock
from gritlm.rag.kvstore import codec, opening
from gritlm.rag.kvstore import stats as store_stats
from gritlm.rag.kvstore.errors import Damage, full, skipped_when_full
from gritlm.rag.kvstore.manifest import Manifest
from gritlm.rag.kvstore.opening import WriterLock
from gritlm.rag.kvstore.reads import MemoryCache, RecordAccess
from gritlm.rag.kvstore.record import FLOATS, RecordHeader, block_key
from gritlm.rag.kvstore.shared.pending_deletes import PendingDeletes
from gritlm.rag.kvstore.shared.shared_tier import SharedTier
from gritlm.rag.kvstore.stats import FetchCounts, StoreStats
from gritlm.rag.kvstore.writer import StoreWriter

if TYPE_CHECKING:
    from gritlm.rag.identity import ModelIdentity
    from gritlm.rag.kvstore.shared.shared_blocks import SharedBlocks

_Encoded = tuple[bytes, Callable[[], tuple[RecordHeader, memoryview]]]
_BATCH_BYTES = 256 * 2**20  # bytes on disk per commit of put_many


class KVStore:
    """KV blocks on disk under a byte budget, with an in-memory cache. Created by :meth:`open`.

    One process writes, any number of processes read; readers see new blocks without reopening.
    Safe to use from several threads. Never write to a returned block: it may be a view of the
    file, and other callers may hold the same block.

    Attributes:
        about: manifest of the store.
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
        self._identity = maker
        self._records = access
        self._lock = lock
        self._memory = MemoryCache(memory_bytes)
        self._fetched = {"memory": 0, "disk": 0, "shared": 0, "missed": 0}
        self._shared: SharedTier | None = None
        self._pending = None if lock is None else PendingDeletes(access.folder)
        self._borrowed = set[bytes]()  # cached in memory, and not in this store
        self._deletes = 0
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
        """Open a store, or create one.

        Args:
            folder: folder of the store.
            maker: identity of the model whose blocks are stored; None for maintenance without the
                model (verify, gc, stats, delete), without put and fetch.
            storage: number format on disk; "auto" keeps the store's format, or uses ``dtype`` for
                a new store.
            dtype: number format of the model.
            disk_bytes: byte budget of the segments, live and dead bytes together; None keeps the
                last budget, which is 10 GiB for a new store. If the store is larger, blocks of
                least worth are evicted.
            memory_bytes: byte limit of the in-memory cache.
            read_only: open for reading, while another process may write.

        Raises:
            InputError: if the store has another model, number format or version, or if there is
                no store to read.
            StoreLockedError: if another process writes to the store; the message names it.
            IndexDamagedError: if the index is damaged and ``read_only`` is set; a writer rebuilds
                the index.
            StoreFullError: if the disk is full.
        """
        if memory_bytes < 0:
            raise InputError(f"memory_bytes is {memory_bytes}; expected 0 or more")
        if read_only:
            found, access = opening.open_reader(folder, maker, storage=storage, dtype=dtype)
            return cls(maker, found, access, memory_bytes=memory_bytes)
        found, access, lock = opening.open_writer(
            folder, maker, storage=storage, dtype=dtype, disk_bytes=disk_bytes
        )
        return cls(maker, found, access, memory_bytes=memory_bytes, lock=lock)

    @property
    def folder(self) -> Path:
        """Folder of the store."""
        return self._records.folder

    @property
    def read_only(self) -> bool:
        """Whether the store was opened for reading."""
        return self._lock is None

    @property
    def damages(self) -> list[Damage]:
        """Damage found so far. Each damaged record counts as a miss from then on."""
        return list(self._records.damages)

    @property
    def nbytes(self) -> int:
        """Bytes of the segments on disk, live and dead."""
        with self._mutex:
            return sum(self._access.index.sizes().values())

    @property
    def memory_nbytes(self) -> int:
        """Bytes of the blocks in the memory cache."""
        return self._memory.nbytes

    def key(self, ids: Sequence[int], *, causal: bool) -> bytes:
        """Return the key of the KV block that prefilling these token ids produces."""
        return block_key(self._maker, ids, causal=causal, storage=self.storage)

    def __contains__(self, key: bytes) -> bool:
        with self._mutex:
            return self._access.find(key) is not None

    def put(self, key: bytes, block: KVBlock) -> bool:
        """Store a block and return whether it was admitted; an admitted block survives a crash.

        Raises:
            InputError: if the block cannot be stored; see :func:`codec.to_record`.
            CacheMismatchError: if the block was made by another model.
            StoreFullError: if the disk is full; stored blocks stay readable.
        """
        return self._append(self._encoded([(key, block)]), wait=False) == 1

    def put_many(self, items: Iterable[tuple[bytes, KVBlock]]) -> int:
        """Store blocks with one sync and commit per 256 MiB; return how many are stored.

        If this raises, the blocks admitted before the error are durable, unless the disk is full.

        Raises:
            InputError: if a block cannot be stored.
            CacheMismatchError: if a block was made by another model.
            StoreFullError: if the disk is full; stored blocks stay readable.
        """
        return self._append(self._encoded(items), wait=True)

    def put_records(self, records: Iterable[tuple[RecordHeader, memoryview]]) -> int:
        """Store blocks that :func:`codec.to_record` has encoded elsewhere, as put_many does.

        They do not go to the shared tier: the process that encoded them decides that.

        Args:
            records: header and payload of each block, in the number format of this store.

        Raises:
            InputError: for a record of another number format.
            StoreFullError: if the disk is full; stored blocks stay readable.
        """

        def encoded(header: RecordHeader, payload: memoryview) -> tuple[RecordHeader, memoryview]:
            if header.storage != self.storage:
                raise InputError(
                    f"a block is stored as {header.storage}, {self.folder} holds {self.storage}"
                )
            return header, payload

        return self._append(
            ((header.key, partial(encoded, header, payload)) for header, payload in records),
            wait=True,
            ships=False,
        )

    def _encoded(self, items: Iterable[tuple[bytes, KVBlock]]) -> Iterator[_Encoded]:
        maker = self._maker
        for key, block in items:
            yield key, partial(codec.to_record, key, block, maker=maker, storage=self.storage)

    def _append(self, items: Iterable[_Encoded], *, wait: bool, ships: bool = True) -> int:
        """Append records by key, each of which is encoded if it is missing, and commit them.

        Args:
            items: key of each record, and the function that encodes it.
            wait: wait until the shared tier has the records too.
            ships: whether they go there.
        """
        writer = self._writer
        stored = 0
        since = 0
        before = writer.lost
        shipped = []
        try:
            for key, encode in items:
                with self._mutex:
                    if writer.has(key):
                        stored += 1
                        continue
                header, payload = encode()
                if self._shared is not None and ships:
                    shipped.append(self._shared.ship(header, payload, wait=wait))
                with self._mutex:
                    if not writer.append(header, payload):
                        continue
                    stored += 1
                    since += len(payload)
                    if since >= _BATCH_BYTES:
                        writer.commit()
                        since = 0
        finally:
            with self._mutex:
                writer.commit()
                lost = writer.lost - before
        if wait:
            wait_for([each for each in shipped if each is not None])
        if lost:  # in a failed commit of another thread, which included pending records of this one
            raise full(self.folder, "the new blocks could not be made known to the index")
        return stored

    def attach(self, shared: SharedBlocks) -> None:
        """Use shared storage as a further tier: missing blocks come from it, new ones go to it.

        A store that was opened for reading only fetches. Deletes that have not reached the storage
        are carried out now.

        Args:
            shared: the storage.
        """
        self._shared = SharedTier(shared, self._maker, self.storage, writes=not self.read_only)
        if self._pending is not None:
            self._pending.connect(self._shared.url)
            self._delete_shared()

    @property
    def is_shared(self) -> bool:
        """Whether shared storage is a tier of this store."""
        return self._shared is not None

    def fetch(self, key: bytes, *, tokens: int | None = None) -> FetchCounts | None:
        """Return a block at positions 0..T-1 on the CPU; None if it is missing or damaged.

        Args:
            key: key of the block.
            tokens: its tokens, by which the shared tier decides whether it is worth fetching; None
                fetches it at any cost.
        """
        maker = self._maker
        with self._mutex:
            found = self._fetch(key, maker)
            if found is not None and self._access.writer is not None:
                self._access.writer.transactions.used(key)
        if found is None and self._shared is not None:
            found = self._fetch_shared(self._shared, key, tokens)
        with self._mutex:
            self._fetched["missed" if found is None else found.tier] += 1
        return found

    def obtain(self, key: bytes, tokens: int) -> bool:
        """Return whether a block is stored, after fetching it from the shared tier if need be.

        Args:
            key: key of the block.
            tokens: its tokens.
        """
        return key in self or self.fetch(key, tokens=tokens) is not None

    def measure_prefill(self, tokens: int, seconds: float) -> None:
        """Note the time to compute a block, for the decisions of the shared tier.

        Args:
            tokens: tokens of the block.
            seconds: time of the pass.
        """
        if self._shared is not None:
            self._shared.costs.measure_prefill(tokens, seconds)

    def delete(self, keys: Iterable[bytes]) -> int:
        """Remove blocks from every tier and return how many this store held.

        :meth:`gc` frees their bytes on disk. A shared tier that cannot be reached deletes them
        later.
        """
        keys = list(keys)
        writer = self._writer
        with self._mutex:
            self._deletes += 1
            if self._pending is not None:
                self._pending.add(keys)
            for key in keys:
                self._memory.forget(key)
            removed = writer.remove(keys)
        self._delete_shared()
        return removed

    def evict(self, nbytes: int) -> int:
        """Remove the blocks of least worth until ``nbytes`` are free; return the bytes freed."""
        with self._mutex:
            return self._writer.evict(nbytes)

    def verify(self) -> list[Damage]:
        """Read all records from disk, compare their checksums, and return new damage.

        A writer removes damaged records; a reader treats them as missing.
        """
        with self._mutex:
            return self._access.verify()

    def gc(self, *, checkpoint: Callable[[], None] | None = None) -> int:
        """Compact segments that hold removed records, and return the bytes freed.

        Other threads may use the store between segments.

        Args:
            checkpoint: called between segments; may use this store too.
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
        """Rebuild the index from the segments and return the number of records found.

        Hit counts are lost. Deleted blocks that :meth:`gc` has not removed yet are stored again.
        """
        with self._mutex:
            return self._access.rebuild(self._writer)

    def stats(self) -> StoreStats:
        """Return the contents of the store and counts of what this object has done.

        Raises:
            IndexDamagedError: if the index cannot be read.
        """
        with self._mutex:
            return store_stats.gather(self.about, self._access, self._memory, self._fetched)

    def close(self) -> None:
        """Save the last hit counts and release all resources; returned blocks stay valid."""
        with self._mutex:
            if self._open:
                self._open = False
                self._memory.clear()
                try:
                    if self._shared is not None:
                        self._shared.close()
                    self._records.close()
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
            raise InputError(f"{self.folder}: the store was closed; open it again")
        return self._records

    @property
    def _maker(self) -> ModelIdentity:
        if self._identity is None:
            raise InputError(
                f"{self.folder} was opened without its model; open it with the model to put and "
                "fetch blocks"
            )
        return self._identity

    @property
    def _writer(self) -> StoreWriter:
        writer = self._access.writer
        if writer is None:
            raise InputError(
                f"{self.folder} was opened for reading; open it without read_only to change it"
            )
        return writer

    def _fetch(self, key: bytes, maker: ModelIdentity) -> FetchCounts | None:
        entry = self._access.find(key)
        if entry is None and key not in self._borrowed:
            self._memory.forget(key)
            return None
        cached = self._memory.get(key)
        if cached is not None:
            return FetchCounts(cached, "memory", cached.nbytes)
        if entry is None:
            return None
        found = self._access.read(key, entry)
        if found is None:
            return None
        block = codec.from_record(*found, maker)
        return FetchCounts(self._keep_in_memory(key, block), "disk", found[0].payload)

    def _fetch_shared(
        self, shared: SharedTier, key: bytes, tokens: int | None
    ) -> FetchCounts | None:
        """Fetch a block from the shared tier, and keep it in this store, or in memory if reading.

        Other threads may use the store meanwhile.
        """
        deletes = self._deletes
        record = shared.fetch(key, tokens)
        if record is None:
            return None
        header, raw_LB = record
        block = codec.from_record(header, raw_LB, self._maker)
        with self._mutex:
            writer = self._access.writer
            if writer is None:
                self._memory.put(key, block)
                self._borrowed = {each for each in (*self._borrowed, key) if each in self._memory}
            elif deletes == self._deletes:  # else its document may be gone by now
                with skipped_when_full("a fetched block was not stored"):
                    writer.append(header, raw_LB.numpy().data.cast("B"))
                    writer.commit()
        return FetchCounts(block, "shared", header.payload)

    def _delete_shared(self) -> None:
        """Carry out the deletes that have not reached the shared tier."""
        if self._pending is None:
            return
        if self._shared is not None:
            keys = self._pending.keys()
            if self._shared.delete(keys):
                with self._mutex:
                    self._pending.remove(keys)
        self._pending.warn()

    def _keep_in_memory(self, key: bytes, block: KVBlock) -> KVBlock:
        """Cache a block and return it.

        Decoded blocks are cached on the first request, views of the file on the second.
        """
        if FLOATS.get(self.storage) == block.dtype:
            if block.nbytes > self._memory.capacity or not self._memory.request(key):
                return block
            block = replace(block, data=block.data.clone())
        self._memory.put(key, block)
        return block
