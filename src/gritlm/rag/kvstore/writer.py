"""Writer of a store: admission, eviction and compaction under the byte budget.

Live and dead bytes on disk never exceed the budget together. One segment's worth of it is kept
free, so that the live records of a segment can always be copied before the segment is removed. The
index is not counted: it takes some 300 bytes a record.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from gritlm.rag.kvstore import eviction, recovery, segments
from gritlm.rag.kvstore.errors import Damage, DamagedRecordError
from gritlm.rag.kvstore.lmdb.transactions import IndexTransactions
from gritlm.rag.kvstore.record import ALIGN, IndexEntry, RecordHeader, aligned, pack, unpack
from gritlm.rag.kvstore.segments import SegmentFiles

SEGMENT_BYTES = 256 * 2**20
_SEGMENTS = 16  # segments that fit into the budget, at least


class StoreWriter:
    """Segments and index of a store, open for writing.

    Attributes:
        disk_bytes: byte budget of the segments.
        reserve: bytes of the budget that are kept free.
        segments: segment files.
        transactions: index of the stored records, and its commits.
        damages: damage found when the store was opened and since.
        refused: number of blocks that were not admitted.
        evicted: number of blocks that were evicted.
    """

    def __init__(
        self, folder: Path, *, disk_bytes: int, segment_bytes: int = SEGMENT_BYTES
    ) -> None:
        self.disk_bytes = disk_bytes
        self.reserve = max(ALIGN, min(segment_bytes, disk_bytes // _SEGMENTS))
        self.refused = self.evicted = 0
        with ExitStack() as opened:
            self.segments = SegmentFiles(folder / segments.FOLDER, segment_bytes=self.reserve)
            opened.callback(self.segments.close)
            self.transactions = IndexTransactions(folder, self.segments)
            opened.callback(self.transactions.close)
            self.damages = self.transactions.damages
            self._shrink()
            self._make_room(0)
            opened.pop_all()

    @property
    def nbytes(self) -> int:
        """Bytes on disk, live and dead."""
        return sum(self.segments.sizes.values())

    @property
    def capacity(self) -> int:
        """Bytes that records may take: the budget without the reserve."""
        return self.disk_bytes - self.reserve

    @property
    def lost(self) -> int:
        """Number of appended records that were lost because their commit failed."""
        return self.transactions.lost

    def has(self, key: bytes) -> bool:
        """Return whether a record is stored or pending for the next commit."""
        return key in self.transactions.entries or key in self.transactions.pending

    def append(self, header: RecordHeader, payload: memoryview) -> bool:
        """Append a record, durable after :meth:`commit`; return whether it was admitted.

        Raises:
            StoreFullError: if the disk is full.
        """
        if self.has(header.key):
            return True
        entry = recovery.entry_of(header, 0, 0, age=self.transactions.state.clock)
        if not self._admit(entry):
            self.refused += 1
            return False
        segment, offset = self._write(header, payload)
        self.transactions.pending[header.key] = replace(entry, segment=segment, offset=offset)
        return True

    def commit(self) -> int:
        """Commit the pending records to the index and return how many there were."""
        appended = len(self.transactions.pending)
        if appended:
            self.transactions.commit()
        return appended

    def remove(self, keys: Iterable[bytes]) -> int:
        """Remove stored and pending records, and return how many of the keys existed."""
        found = {key for key in keys if self.has(key)}
        if found:
            self.transactions.commit(deletes=found)
            self._drop_dead()
        return len(found)

    def evict(self, nbytes: int) -> int:
        """Remove the records of least worth until ``nbytes`` are free; return the bytes freed."""
        self.commit()  # else a segment of pending records alone would count as dead
        freed = self._evict(eviction.cheapest(self.transactions.entries.items(), nbytes))
        self._drop_dead()
        return freed

    def wasteful(self) -> list[int]:
        """Return the numbers of the segments that hold dead bytes."""
        self.commit()  # else pending records would count as dead
        return [segment for segment in self.segments.sizes if self._dead_in(segment)]

    def gc(self, segment: int) -> int:
        """Compact a segment that holds dead bytes, if there is room; return the bytes freed."""
        if segment not in self.wasteful() or not self._fits(segment):
            return 0
        before = self.nbytes
        self._compact(segment)
        return before - self.nbytes

    def rebuild(self) -> int:
        """Rebuild the index from the segments and return the number of records found."""
        self.transactions.rebuild()
        return len(self.transactions.entries)

    def close(self) -> None:
        """Save hit counts, and close index and segments."""
        try:
            self.transactions.close()
        finally:
            self.segments.close()

    def _admit(self, entry: IndexEntry) -> bool:
        """Decide whether a new record is admitted, and make room for it if so."""
        needed = self.nbytes + entry.nbytes - self.capacity
        if needed <= 0:
            return True
        if entry.nbytes > self.capacity:
            return False
        self.commit()  # so that pending records can be evicted too
        dead = self.nbytes - self.transactions.live
        if dead < needed:
            # Evict a segment's worth of records if they are cheap: space is freed by segment.
            wanted = max(needed, self.reserve) - dead
            limit = eviction.worth(entry)
            victims = eviction.cheapest(self.transactions.entries.items(), wanted, below=limit)
            if dead + sum(victim.nbytes for _, victim in victims) < needed:
                self.transactions.age(eviction.clock_step(entry, len(self.transactions.entries)))
                return False
            self._evict(victims)
        self._make_room(entry.nbytes)
        return True

    def _evict(self, victims: list[tuple[bytes, IndexEntry]]) -> int:
        if not victims:
            return 0
        clock = max(self.transactions.state.clock, *(eviction.worth(entry) for _, entry in victims))
        self.transactions.commit(deletes=[key for key, _ in victims], clock=clock)
        self.evicted += len(victims)
        return sum(entry.nbytes for _, entry in victims)

    def _make_room(self, nbytes: int) -> None:
        """Compact segments, the one with most dead bytes first, until ``nbytes`` bytes fit."""
        self._drop_dead()
        while self.nbytes + nbytes > self.capacity:
            fitting = [s for s in self.segments.sizes if self._dead_in(s) and self._fits(s)]
            if fitting:
                self._compact(max(fitting, key=self._dead_in))
            else:  # a record larger than the reserve
                self._evict(eviction.cheapest(self.transactions.entries.items(), self.reserve))
                self._drop_dead()

    def _shrink(self) -> None:
        """Evict and compact after the budget was lowered, into segments of the current size.

        The store exceeds its new budget while records are copied, as it did before.
        """
        over = self.transactions.live - self.capacity
        self._evict(eviction.cheapest(self.transactions.entries.items(), over))
        self._drop_dead()
        for segment, size in list(self.segments.sizes.items()):
            if size > self.reserve and len(self.transactions.of_segment(segment)) > 1:
                self._compact(segment)

    def _fits(self, segment: int) -> bool:
        live = self.transactions.live_in(segment)
        return not live or self.nbytes + live <= self.disk_bytes

    def _dead_in(self, segment: int) -> int:
        return self.segments.sizes[segment] - self.transactions.live_in(segment)

    def _drop_dead(self) -> None:
        """Remove segments without live records."""
        for segment, size in list(self.segments.sizes.items()):
            if size and not self.transactions.live_in(segment):
                self.segments.drop(segment)

    def _compact(self, segment: int) -> None:
        """Append copies of a segment's live records, commit them, and remove the segment."""
        if segment == self.segments.active:
            self.segments.roll()
        moved: dict[bytes, IndexEntry] = {}
        broken: set[bytes] = set()
        for key, entry in self.transactions.of_segment(segment):
            data = self.segments.read(segment, entry.offset, entry.nbytes)
            try:
                header = unpack(data[: entry.header])
                if (header.key, len(data)) != (key, entry.nbytes):
                    raise DamagedRecordError("another record lies here, or only a part of it")
            except DamagedRecordError as error:
                self.damages.append(Damage(key, segment, entry.offset, str(error)))
                broken.add(key)
                continue
            begin = aligned(entry.header)
            location = self._write(header, memoryview(data)[begin : begin + entry.payload])
            moved[key] = replace(entry, segment=location[0], offset=location[1])
        self.transactions.commit(puts=moved, deletes=broken)
        self.segments.drop(segment)

    def _write(self, header: RecordHeader, payload: memoryview) -> tuple[int, int]:
        return self.segments.append(pack(header.at(self.transactions.state.commit + 1)), payload)
