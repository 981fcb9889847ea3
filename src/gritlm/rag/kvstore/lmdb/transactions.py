"""Index of a writer in memory, and the atomic commits that change it.

Payloads are flushed to disk before a commit refers to them, and a commit is atomic. So after a
crash, a process that opens the store finds the entries of the last commit.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from gritlm.rag.kvstore import recovery
from gritlm.rag.kvstore.errors import Damage, StoreFullError
from gritlm.rag.kvstore.lmdb.lmdb_index import IndexState
from gritlm.rag.kvstore.record import IndexEntry
from gritlm.rag.kvstore.segments import SegmentFiles

log = logging.getLogger(__name__)

_HITS = 256  # blocks with new hit counts before these are saved


class IndexTransactions:
    """Index entries of a store in memory, and their commits to LMDB.

    Attributes:
        entries: entries by key, as of the last commit; hits are counted here first.
        pending: entries of appended records that are not committed yet.
        lost: number of records that were pending when a commit failed.
        damages: damage found when the store was opened and since.
        state: state of the store as of the last commit.
    """

    def __init__(self, folder: Path, segments: SegmentFiles) -> None:
        self.folder = folder
        self.segments = segments
        self.entries: dict[bytes, IndexEntry] = {}
        self.pending: dict[bytes, IndexEntry] = {}
        self.lost = 0
        self.damages: list[Damage] = []
        self._live = Counter[int]()
        self._used: set[bytes] = set()
        self.state: IndexState
        self._index, index, damages = recovery.open_index(folder, segments)
        try:
            self._take(index)
            adopted, lost, more = recovery.reconcile(index, segments)
            self.damages.extend([*damages, *more])
            if adopted or lost:
                self.commit(puts=adopted, deletes=lost)
        except BaseException:
            self._index.close()
            raise

    def get(self, key: bytes) -> IndexEntry | None:
        """Return the entry of a record; None if it is not stored."""
        return self.entries.get(key)

    def snapshot(self) -> dict[bytes, IndexEntry]:
        """Return the entries of all records, by key."""
        return dict(self.entries)

    def sizes(self) -> dict[int, int]:
        """Return the bytes of each segment, by number."""
        return self.segments.sizes

    @property
    def live(self) -> int:
        """Bytes of all records in the index."""
        return self._live.total()

    def live_in(self, segment: int) -> int:
        """Return the bytes of a segment's records in the index."""
        return self._live[segment]

    def of_segment(self, segment: int) -> list[tuple[bytes, IndexEntry]]:
        """Return keys and entries of a segment's records, in the order of their offsets."""
        found = [item for item in self.entries.items() if item[1].segment == segment]
        return sorted(found, key=lambda item: item[1].offset)

    def used(self, key: bytes) -> None:
        """Count a use; saved with the next commit, or after uses of 256 blocks."""
        entry = self.entries[key]
        self.entries[key] = replace(
            entry, hits=entry.hits + 1, age=self.state.clock, used=time.time()
        )
        self._used.add(key)
        if len(self._used) >= _HITS:
            self.note_uses()

    def note_uses(self) -> None:
        """Save hit counts; if the disk is full, log a warning and drop them."""
        try:
            self.commit()
        except StoreFullError as error:
            log.warning("hit counts of the last blocks are not saved: %s", error)
            self._used.clear()

    def commit(
        self,
        *,
        puts: Mapping[bytes, IndexEntry] | None = None,
        deletes: Iterable[bytes] = (),
        clock: float | None = None,
    ) -> None:
        """Flush payloads, commit pending and changed entries to LMDB, then update memory.

        Args:
            puts: entries to add or replace besides the pending ones.
            deletes: keys to remove, those of pending records included.
            clock: new clock of the eviction policy; None keeps it.

        Raises:
            StoreFullError: if the disk is full; the index is unchanged, and the pending records
                are lost.
        """
        pending = self.pending
        self.pending = {}
        try:
            self._commit(pending | dict(puts or {}), set(deletes), clock)
        except BaseException:
            self.lost += len(pending)
            raise

    def age(self, step: float) -> None:
        """Advance the clock of the eviction policy; saved with the next commit."""
        self.state = replace(self.state, clock=self.state.clock + step)

    def rebuild(self) -> None:
        """Rebuild the index from the segments, without reading the old one."""
        self.segments.sync()
        old = self._index
        self._index, index, damages = recovery.rebuild_index(self.folder, self.segments)
        old.close()
        self.pending.clear()  # the scan of the segments found these records
        self.damages.extend(damages)
        self._take(index)

    def close(self) -> None:
        """Save hit counts and pending records, and close the index."""
        try:
            if self._used or self.pending:
                self.note_uses()
        finally:
            self._index.close()

    def _commit(
        self, puts: Mapping[bytes, IndexEntry], removed: set[bytes], clock: float | None
    ) -> None:
        added = {key: entry for key, entry in puts.items() if key not in removed}
        if added:
            self.segments.sync()
        changed = {key: self.entries[key] for key in self._used - removed if key in self.entries}
        changed |= added
        state = IndexState(
            commit=self.state.commit + 1,
            segment=self.segments.active,
            clock=self.state.clock if clock is None else clock,
        )
        self._index.write(changed, removed, state)
        self.state = state
        self._used.clear()
        for key in removed | changed.keys():
            self._replace(key, changed.get(key))

    def _take(self, index: recovery.Index) -> None:
        entries, self.state = index
        self.entries = {}
        self._live = Counter()
        self._used.clear()
        for key, entry in entries.items():
            self._replace(key, entry)

    def _replace(self, key: bytes, entry: IndexEntry | None) -> None:
        before = self.entries.pop(key, None)
        if before is not None:
            self._live[before.segment] -= before.nbytes
        if entry is not None:
            self.entries[key] = entry
            self._live[entry.segment] += entry.nbytes
