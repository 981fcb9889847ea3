"""The one who writes: admits, evicts, and makes room on the disk.

Bytes on the disk, live and dead, never exceed the budget. A part of it (one segment) is kept free,
so that there is always room to copy what is live out of a segment before the segment is removed.
The index is not counted: some 300 bytes a record.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from gritlm.rag.kvstore import eviction, recovery, segments
from gritlm.rag.kvstore.errors import Damage, DamagedRecordError
from gritlm.rag.kvstore.lmdb.lmdb_index import IndexEntry
from gritlm.rag.kvstore.lmdb.transactions import IndexTransactions
from gritlm.rag.kvstore.record import ALIGN, RecordHeader, aligned, pack, unpack
from gritlm.rag.kvstore.segments import SegmentFiles

SEGMENT_BYTES = 256 * 2**20
_SEGMENTS = 16  # at least so many fit into the budget


class StoreWriter:
    """A store's arenas and index, open for writing.

    Attributes:
        ledger: what is stored.
        damages: places that were found damaged, at opening and since.
        refused: newcomers that were not admitted.
        evicted: blocks that had to go.
    """

    def __init__(
        self, folder: Path, *, disk_bytes: int, segment_bytes: int = SEGMENT_BYTES
    ) -> None:
        self.disk_bytes = disk_bytes
        self.reserve = max(ALIGN, min(segment_bytes, disk_bytes // _SEGMENTS))
        self.refused = self.evicted = 0
        with ExitStack() as opened:
            self.arena = SegmentFiles(folder / segments.FOLDER, segment_bytes=self.reserve)
            opened.callback(self.arena.close)
            self.ledger = IndexTransactions(folder, self.arena)
            opened.callback(self.ledger.close)
            self.damages = self.ledger.damages
            self._shrink()
            self._make_room(0)
            opened.pop_all()

    def get(self, key: bytes) -> IndexEntry | None:
        """Where a record is; None when it is not stored."""
        return self.ledger.entries.get(key)

    def entries(self) -> dict[bytes, IndexEntry]:
        """All records."""
        return dict(self.ledger.entries)

    def sizes(self) -> dict[int, int]:
        """Bytes of each segment."""
        return self.arena.sizes

    @property
    def nbytes(self) -> int:
        """Bytes on the disk, live and dead."""
        return sum(self.arena.sizes.values())

    @property
    def capacity(self) -> int:
        """Bytes that records may take: the budget without what is kept free."""
        return self.disk_bytes - self.reserve

    @property
    def lost(self) -> int:
        """How many records so far were appended and will not be there: their commit failed."""
        return self.ledger.lost

    def has(self, key: bytes) -> bool:
        """Whether it is stored, or will be with the next commit."""
        return key in self.ledger.entries or key in self.ledger.pending

    def used(self, key: bytes) -> None:
        """Count a use of what is stored."""
        self.ledger.used(key)

    def append(self, header: RecordHeader, payload: memoryview) -> bool:
        """Write a record; durable after :meth:`commit`. False when it is not admitted.

        Raises:
            StoreFullError: when the disk takes no more.
        """
        if self.has(header.key):
            return True
        entry = recovery.entry_of(header, 0, 0, age=self.ledger.state.clock)
        if not self._admit(entry):
            self.refused += 1
            return False
        segment, offset = self._write(header, payload)
        self.ledger.pending[header.key] = replace(entry, segment=segment, offset=offset)
        return True

    def commit(self) -> int:
        """Make durable and known what was appended -> how many records that were."""
        appended = len(self.ledger.pending)
        if appended:
            self.ledger.commit()
        return appended

    def remove(self, keys: Iterable[bytes]) -> int:
        """Take keys out, pending ones too -> how many of them were there."""
        found = {key for key in keys if self.has(key)}
        if found:
            self.ledger.commit(deletes=found)
            self._drop_dead()
        return len(found)

    def evict(self, nbytes: int) -> int:
        """Remove the least valuable until ``nbytes`` live bytes are free -> bytes freed."""
        self.commit()  # else a segment that holds only what is pending would count as dead
        freed = self._evict(eviction.cheapest(self.ledger.entries.items(), nbytes))
        self._drop_dead()
        return freed

    def wasteful(self) -> list[int]:
        """Segments that hold dead bytes."""
        self.commit()  # else what is pending would count as dead
        return [segment for segment in self.arena.sizes if self._dead_in(segment)]

    def gc(self, segment: int) -> int:
        """Compact a segment, if it is there, holds dead bytes and fits -> bytes given back."""
        if segment not in self.wasteful() or not self._fits(segment):
            return 0
        before = self.nbytes
        self._compact(segment)
        return before - self.nbytes

    def rebuild(self) -> int:
        """A new index out of the arenas -> records found."""
        self.ledger.rebuild()
        return len(self.ledger.entries)

    def close(self) -> None:
        try:
            self.ledger.close()
        finally:
            self.arena.close()

    def _admit(self, entry: IndexEntry) -> bool:
        """Whether a newcomer comes in; then there is room for it."""
        needed = self.nbytes + entry.nbytes - self.capacity
        if needed <= 0:
            return True
        if entry.nbytes > self.capacity:
            return False
        self.commit()  # what is pending takes part in what follows
        dead = self.nbytes - self.ledger.live
        if dead < needed:
            # More than needed, where that is cheap: a segment at a time comes free, not a record.
            wanted = max(needed, self.reserve) - dead
            limit = eviction.of(entry)
            victims = eviction.cheapest(self.ledger.entries.items(), wanted, below=limit)
            if dead + sum(victim.nbytes for _, victim in victims) < needed:
                self.ledger.age(eviction.refused(entry, len(self.ledger.entries)))
                return False
            self._evict(victims)
        self._make_room(entry.nbytes)
        return True

    def _evict(self, victims: list[tuple[bytes, IndexEntry]]) -> int:
        if not victims:
            return 0
        clock = max(self.ledger.state.clock, *(eviction.of(entry) for _, entry in victims))
        self.ledger.commit(deletes=[key for key, _ in victims], clock=clock)
        self.evicted += len(victims)
        return sum(entry.nbytes for _, entry in victims)

    def _make_room(self, nbytes: int) -> None:
        """Compact, emptiest segment first, until so many bytes fit."""
        self._drop_dead()
        while self.nbytes + nbytes > self.capacity:
            fitting = [s for s in self.arena.sizes if self._dead_in(s) and self._fits(s)]
            if fitting:
                self._compact(max(fitting, key=self._dead_in))
            else:  # one record that is larger than what is kept free
                self._evict(eviction.cheapest(self.ledger.entries.items(), self.reserve))
                self._drop_dead()

    def _shrink(self) -> None:
        """After the budget was lowered: fewer records, in segments of today's size.

        While it copies, the store takes more than its budget: it did before.
        """
        over = self.ledger.live - self.capacity
        self._evict(eviction.cheapest(self.ledger.entries.items(), over))
        self._drop_dead()
        for segment, size in list(self.arena.sizes.items()):
            if size > self.reserve and len(self.ledger.of_segment(segment)) > 1:
                self._compact(segment)

    def _fits(self, segment: int) -> bool:
        live = self.ledger.live_in(segment)
        return not live or self.nbytes + live <= self.disk_bytes

    def _dead_in(self, segment: int) -> int:
        return self.arena.sizes[segment] - self.ledger.live_in(segment)

    def _drop_dead(self) -> None:
        """Remove segments of which nothing is live."""
        for segment, size in list(self.arena.sizes.items()):
            if size and not self.ledger.live_in(segment):
                self.arena.drop(segment)

    def _compact(self, segment: int) -> None:
        """Copy what is live to the end of the arena, make that known, remove the segment."""
        if segment == self.arena.active:
            self.arena.roll()
        moved: dict[bytes, IndexEntry] = {}
        broken: set[bytes] = set()
        for key, entry in self.ledger.of_segment(segment):
            data = self.arena.read(segment, entry.offset, entry.nbytes)
            try:
                header = unpack(data[: entry.header])
                if (header.key, len(data)) != (key, entry.nbytes):
                    raise DamagedRecordError("another record lies here, or only a part of it")
            except DamagedRecordError as error:
                self.damages.append(Damage(key, segment, entry.offset, str(error)))
                broken.add(key)
                continue
            begin = aligned(entry.header)
            place = self._write(header, memoryview(data)[begin : begin + entry.payload])
            moved[key] = replace(entry, segment=place[0], offset=place[1])
        self.ledger.commit(puts=moved, deletes=broken)
        self.arena.drop(segment)

    def _write(self, header: RecordHeader, payload: memoryview) -> tuple[int, int]:
        return self.arena.append(pack(header.at(self.ledger.state.commit + 1)), payload)
