"""What a writer knows of its records: the index in memory, and the commits that change it.

Payloads are on the disk before a commit names them, and a commit is all or nothing. So what this
says is what a process that opens the store after a crash will find.
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
from gritlm.rag.kvstore.lmdb.lmdb_index import IndexEntry, IndexState
from gritlm.rag.kvstore.segments import SegmentFiles

log = logging.getLogger(__name__)

_HITS = 256  # blocks whose uses are counted in memory before they are written down


class IndexTransactions:
    """Entries, and what they come to.

    Attributes:
        entries: by key, as of the last commit; uses are counted here first.
        pending: records that are written and not yet made known.
        lost: how many records so far were pending when a commit failed.
        damages: places that were found damaged, at opening and since.
    """

    def __init__(self, folder: Path, arena: SegmentFiles) -> None:
        self.folder = folder
        self.arena = arena
        self.entries: dict[bytes, IndexEntry] = {}
        self.pending: dict[bytes, IndexEntry] = {}
        self.lost = 0
        self.damages: list[Damage] = []
        self._live = Counter[int]()
        self._used: set[bytes] = set()
        self.state: IndexState
        self._catalogue, index, damages = recovery.opened(folder, arena)
        try:
            self._take(index)
            adopted, lost, more = recovery.repaired(index, arena)
            self.damages.extend([*damages, *more])
            if adopted or lost:
                self.commit(puts=adopted, deletes=lost)
        except BaseException:
            self._catalogue.close()
            raise

    @property
    def live(self) -> int:
        """Bytes of all records that the index names."""
        return self._live.total()

    def live_in(self, segment: int) -> int:
        return self._live[segment]

    def of_segment(self, segment: int) -> list[tuple[bytes, IndexEntry]]:
        """Its records, in the order in which they lie there."""
        found = [item for item in self.entries.items() if item[1].segment == segment]
        return sorted(found, key=lambda item: item[1].offset)

    def used(self, key: bytes) -> None:
        """Count a use. Written down with the next commit, at the latest after some hundred."""
        entry = self.entries[key]
        self.entries[key] = replace(
            entry, hits=entry.hits + 1, age=self.state.clock, used=time.time()
        )
        self._used.add(key)
        if len(self._used) >= _HITS:
            self.note_uses()

    def note_uses(self) -> None:
        """Write uses down; a full disk is no reason to fail, only to forget them."""
        try:
            self.commit()
        except StoreFullError as error:
            log.warning("uses of the last blocks are not noted: %s", error)
            self._used.clear()

    def commit(
        self,
        *,
        puts: Mapping[bytes, IndexEntry] | None = None,
        deletes: Iterable[bytes] = (),
        clock: float | None = None,
    ) -> None:
        """Payloads first, then the index, then what is known here.

        Args:
            deletes: keys to take out, of pending records too.

        Raises:
            StoreFullError: when the disk takes no more; nothing is changed then, and what was
                pending is dead.
        """
        pending = self.pending
        self.pending = {}
        try:
            self._commit(pending | dict(puts or {}), set(deletes), clock)
        except BaseException:
            self.lost += len(pending)
            raise

    def age(self, step: float) -> None:
        """Move the clock; written down with the next commit."""
        self.state = replace(self.state, clock=self.state.clock + step)

    def rebuild(self) -> None:
        """A new index out of the arenas; the old one is not asked."""
        self.arena.sync()
        old = self._catalogue
        self._catalogue, index, damages = recovery.rebuilt(self.folder, self.arena)
        old.close()
        self.pending.clear()  # the records were found where they lie
        self.damages.extend(damages)
        self._take(index)

    def close(self) -> None:
        try:
            if self._used or self.pending:
                self.note_uses()
        finally:
            self._catalogue.close()

    def _commit(
        self, puts: Mapping[bytes, IndexEntry], gone: set[bytes], clock: float | None
    ) -> None:
        added = {key: entry for key, entry in puts.items() if key not in gone}
        if added:
            self.arena.sync()
        changed = {key: self.entries[key] for key in self._used - gone if key in self.entries}
        changed |= added
        state = IndexState(
            commit=self.state.commit + 1,
            segment=self.arena.active,
            clock=self.state.clock if clock is None else clock,
        )
        self._catalogue.write(changed, gone, state)
        self.state = state
        self._used.clear()
        for key in gone | changed.keys():
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
