"""From a key to a record that was checked. What is damaged is a miss, noted and avoided."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

from torch import Tensor

from gritlm.rag.kvstore import recovery, segments
from gritlm.rag.kvstore.errors import (
    Damage,
    DamagedRecordError,
    SegmentGoneError,
    StoreFullError,
    damaged_index,
)
from gritlm.rag.kvstore.lmdb import lmdb_index
from gritlm.rag.kvstore.lmdb.lmdb_index import IndexEntry
from gritlm.rag.kvstore.lmdb.reader import IndexReader
from gritlm.rag.kvstore.mapped_segments import MappedSegments
from gritlm.rag.kvstore.record import RecordHeader
from gritlm.rag.kvstore.writer import StoreWriter

log = logging.getLogger(__name__)

_TRIES = 8  # to find a record that a writer in another process moves meanwhile


class RecordAccess:
    """Reads records by way of an index.

    Attributes:
        damages: what was found so far, by a writer and its readings together.
    """

    def __init__(self, folder: Path, index: IndexReader | StoreWriter) -> None:
        self.folder = folder
        self.index = index
        self.damages: list[Damage] = index.damages if isinstance(index, StoreWriter) else []
        self._shelf = MappedSegments(folder / segments.FOLDER)
        self._avoided: dict[bytes, tuple[int, int]] = {}  # where a reader cannot take it out
        for damage in self.damages:
            log.warning("%s: damaged: %s", folder, damage)

    def find(self, key: bytes) -> IndexEntry | None:
        """Where a record is; None when it is not stored or known to be damaged."""
        try:
            entry = self.index.get(key)
        except DamagedRecordError as error:
            damage = Damage(key, -1, 0, str(error))
            if damage not in self.damages:
                self._note(damage)
            return None
        if entry is None or self._avoided.get(key) == _place(entry):
            return None
        return entry

    def read(self, key: bytes, entry: IndexEntry) -> tuple[RecordHeader, Tensor] | None:
        """Header and payload (L, B), a view of the file; None when it is gone or damaged."""
        for _ in range(_TRIES):
            try:
                return self._shelf.read(key, entry)
            except DamagedRecordError as error:
                self._quarantine(key, entry, str(error))
                return None
            except SegmentGoneError as error:
                again = self.find(key)
                if again is None:
                    return None
                if _place(again) == _place(entry):
                    self._quarantine(key, entry, f"{error} is missing")
                    return None
                entry = again
        return None

    def verify(self) -> list[Damage]:
        """Read every record from the disk and hold it against all of its checksums."""
        known = len(self.damages)
        reason = lmdb_index.trouble(self.folder / lmdb_index.FOLDER)
        if reason is not None:
            self._note(Damage(b"", -1, 0, reason))
        try:
            entries = self.index.entries()
        except DamagedRecordError as error:
            self._note(Damage(b"", -1, 0, str(error)))
            entries = {}
        for key in entries:
            self._prove(key)
        return self.damages[known:]

    def entries(self) -> dict[bytes, IndexEntry]:
        """All records.

        Raises:
            IndexDamagedError: when the index cannot be read.
        """
        try:
            return self.index.entries()
        except DamagedRecordError as error:
            raise damaged_index(self.folder, str(error)) from None

    def rebuilt(self, writer: StoreWriter) -> int:
        """A new index out of the arenas -> records found."""
        self._avoided.clear()
        self._shelf.close()
        return writer.rebuild()

    def close(self) -> None:
        self._shelf.close()
        self.index.close()

    def _prove(self, key: bytes) -> None:
        for _ in range(_TRIES):
            entry = self.find(key)
            if entry is None:
                return
            reason = recovery.proof(self._shelf.folder, key, entry)
            if reason is None:
                return
            again = self.find(key)
            if again is not None and _place(again) == _place(entry):
                self._quarantine(key, entry, reason)
                return

    def _quarantine(self, key: bytes, entry: IndexEntry, reason: str) -> None:
        self._note(Damage(key, entry.segment, entry.offset, reason))
        self._avoided[key] = _place(entry)
        if isinstance(self.index, StoreWriter):
            with suppress(StoreFullError):  # it is avoided all the same
                self.index.remove([key])

    def _note(self, damage: Damage) -> None:
        log.warning("%s: damaged: %s", self.folder, damage)
        self.damages.append(damage)


def _place(entry: IndexEntry) -> tuple[int, int]:
    return entry.segment, entry.offset
