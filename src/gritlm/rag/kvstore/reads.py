"""Reads of a store: blocks cached in memory, and checked records of memory-mapped segments.

A record is checked once. A damaged record counts as a miss and is reported. A mapping is private
and copy-on-write: torch requires writable memory, and writes to it must not reach the file.
"""

from __future__ import annotations

import logging
import mmap
import os
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from gritlm.lm.kv.block import KVBlock
from gritlm.rag.kvstore import record, recovery, segments
from gritlm.rag.kvstore.errors import (
    Damage,
    DamagedRecordError,
    SegmentGoneError,
    StoreFullError,
    damaged_index,
)
from gritlm.rag.kvstore.lmdb import lmdb_index
from gritlm.rag.kvstore.lmdb.reader import IndexReader
from gritlm.rag.kvstore.lmdb.transactions import IndexTransactions
from gritlm.rag.kvstore.record import IndexEntry, RecordHeader, aligned
from gritlm.rag.kvstore.segments import segment_path
from gritlm.rag.kvstore.writer import StoreWriter

log = logging.getLogger(__name__)

_TRIES = 8  # lookups of one record while a writer in another process moves it
_REQUESTED = 10_000  # recently requested keys that are remembered


class MemoryCache:
    """LRU cache of at most ``capacity`` bytes of keys and values.

    Attributes:
        capacity: byte limit.
        nbytes: bytes of the cached blocks.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.nbytes = 0
        self._blocks: OrderedDict[bytes, KVBlock] = OrderedDict()
        self._requested: OrderedDict[bytes, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._blocks)

    def __contains__(self, key: bytes) -> bool:
        return key in self._blocks

    def get(self, key: bytes) -> KVBlock | None:
        """Return a cached block and mark it as the most recently used; None if missing."""
        block = self._blocks.get(key)
        if block is not None:
            self._blocks.move_to_end(key)
        return block

    def request(self, key: bytes) -> bool:
        """Record a request for a key; return whether it is among the last 10,000 requested keys."""
        before = key in self._requested
        self._requested[key] = None
        self._requested.move_to_end(key)
        if len(self._requested) > _REQUESTED:
            self._requested.popitem(last=False)
        return before

    def put(self, key: bytes, block: KVBlock) -> None:
        """Cache a block, unless it alone exceeds the capacity."""
        self._drop(key)
        if block.nbytes > self.capacity:
            return
        while self.nbytes + block.nbytes > self.capacity:
            self._drop(next(iter(self._blocks)))
        self._blocks[key] = block
        self.nbytes += block.nbytes

    def forget(self, key: bytes) -> None:
        """Remove a block and its record of requests."""
        self._drop(key)
        self._requested.pop(key, None)

    def clear(self) -> None:
        """Remove everything."""
        self._blocks.clear()
        self._requested.clear()
        self.nbytes = 0

    def _drop(self, key: bytes) -> None:
        block = self._blocks.pop(key, None)
        if block is not None:
            self.nbytes -= block.nbytes


class RecordAccess:
    """Reader of records by key.

    Args:
        folder: folder of the store.
        index: index on disk for reading, or the index of ``writer``.
        writer: writer of the store; None if it is open for reading.

    Attributes:
        damages: damaged records found so far, those found by the writer included.
    """

    def __init__(
        self,
        folder: Path,
        index: IndexReader | IndexTransactions,
        writer: StoreWriter | None = None,
    ) -> None:
        self.folder = folder
        self.index = index
        self.writer = writer
        self.damages: list[Damage] = [] if writer is None else writer.damages
        self._segments = MappedSegments(folder / segments.FOLDER)
        # Locations of damaged records: a reader cannot remove them.
        self._avoided: dict[bytes, tuple[int, int]] = {}
        for damage in self.damages:
            log.warning("%s: damaged: %s", folder, damage)

    def find(self, key: bytes) -> IndexEntry | None:
        """Return the location of a record; None if it is not stored or known to be damaged."""
        try:
            entry = self.index.get(key)
        except DamagedRecordError as error:
            damage = Damage(key, -1, 0, str(error))
            if damage not in self.damages:
                self._note(damage)
            return None
        if entry is None or self._avoided.get(key) == _location(entry):
            return None
        return entry

    def read(self, key: bytes, entry: IndexEntry) -> tuple[RecordHeader, Tensor] | None:
        """Return header and payload (L, B) of a record; None if it is gone or damaged.

        The payload is a view of the mapped file.
        """
        for _ in range(_TRIES):
            try:
                return self._segments.read(key, entry)
            except DamagedRecordError as error:
                self._quarantine(key, entry, str(error))
                return None
            except SegmentGoneError as error:
                again = self.find(key)
                if again is None:
                    return None
                if _location(again) == _location(entry):
                    self._quarantine(key, entry, f"{error} is missing")
                    return None
                entry = again
        return None

    def verify(self) -> list[Damage]:
        """Read every record from disk, compare all of its checksums, and return new damage."""
        known = len(self.damages)
        reason = lmdb_index.find_damage(self.folder / lmdb_index.FOLDER)
        if reason is not None:
            self._note(Damage(b"", -1, 0, reason))
        try:
            entries = self.index.snapshot()
        except DamagedRecordError as error:
            self._note(Damage(b"", -1, 0, str(error)))
            entries = {}
        for key in entries:
            self._verify_record(key)
        return self.damages[known:]

    def entries(self) -> dict[bytes, IndexEntry]:
        """Return the index entries of all records, by key.

        Raises:
            IndexDamagedError: if the index cannot be read.
        """
        try:
            return self.index.snapshot()
        except DamagedRecordError as error:
            raise damaged_index(self.folder, str(error)) from None

    def rebuild(self, writer: StoreWriter) -> int:
        """Rebuild the index from the segments and return the number of records found."""
        self._avoided.clear()
        self._segments.close()
        return writer.rebuild()

    def close(self) -> None:
        """Drop all mappings, and close the writer or the index."""
        self._segments.close()
        (self.index if self.writer is None else self.writer).close()

    def _verify_record(self, key: bytes) -> None:
        for _ in range(_TRIES):
            entry = self.find(key)
            if entry is None:
                return
            reason = recovery.find_mismatch(self._segments.folder, key, entry)
            if reason is None:
                return
            again = self.find(key)
            if again is not None and _location(again) == _location(entry):
                self._quarantine(key, entry, reason)
                return

    def _quarantine(self, key: bytes, entry: IndexEntry, reason: str) -> None:
        self._note(Damage(key, entry.segment, entry.offset, reason))
        self._avoided[key] = _location(entry)
        if self.writer is not None:
            with suppress(StoreFullError):  # the record is avoided in any case
                self.writer.remove([key])

    def _note(self, damage: Damage) -> None:
        log.warning("%s: damaged: %s", self.folder, damage)
        self.damages.append(damage)


def _location(entry: IndexEntry) -> tuple[int, int]:
    return entry.segment, entry.offset


class MappedSegments:
    """Segments that this process has mapped into memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._maps: dict[int, mmap.mmap] = {}
        self._checked: dict[int, set[int]] = {}  # offsets of checked records, by segment

    def read(self, key: bytes, entry: IndexEntry) -> tuple[RecordHeader, Tensor]:
        """Return header and payload (L, B) of a record; the payload is a view of the file.

        Raises:
            SegmentGoneError: if its segment does not exist.
            DamagedRecordError: if the record differs from the bytes written.
        """
        mapping = self._map(entry)
        header = record.unpack(mapping[entry.offset : entry.offset + entry.header])
        if (header.key, header.payload) != (key, entry.payload):
            raise DamagedRecordError("another record lies here")
        raw_LB = torch.frombuffer(
            mapping,
            dtype=torch.uint8,
            count=entry.payload,
            offset=entry.offset + aligned(entry.header),
        ).view(header.shape[0], -1)
        checked = self._checked.setdefault(entry.segment, set())
        if entry.offset not in checked:
            layer = record.damaged_layer(raw_LB, header)
            if layer is not None:
                raise DamagedRecordError(f"the checksum of layer {layer} does not fit")
            checked.add(entry.offset)
        return header, raw_LB

    def forget(self, segment: int) -> None:
        """Drop the mapping of a segment; tensors that view it keep it alive."""
        self._maps.pop(segment, None)
        self._checked.pop(segment, None)

    def close(self) -> None:
        """Drop all mappings."""
        for segment in list(self._maps):
            self.forget(segment)

    def _map(self, entry: IndexEntry) -> mmap.mmap:
        mapping = self._maps.get(entry.segment)
        if mapping is None or len(mapping) < entry.end:
            self._forget_gone()
            mapping = self._maps[entry.segment] = _map_file(
                segment_path(self.folder, entry.segment)
            )
        if mapping.size() < entry.end:  # size of the file now: reading behind its end would crash
            self.forget(entry.segment)
            raise DamagedRecordError("the file is shorter than the record")
        return mapping

    def _forget_gone(self) -> None:
        """Drop mappings of removed files: a mapped file keeps its disk space."""
        for segment in list(self._maps):
            if not segment_path(self.folder, segment).exists():
                self.forget(segment)


def _map_file(path: Path) -> mmap.mmap:
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        raise SegmentGoneError(path.name) from None
    try:
        if not os.fstat(file).st_size:
            raise DamagedRecordError("the file is empty")
        return mmap.mmap(file, 0, access=mmap.ACCESS_COPY)
    finally:
        os.close(file)
