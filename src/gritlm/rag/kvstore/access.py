"""Checked reads of records by key. A damaged record counts as a miss and is reported."""

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

_TRIES = 8  # lookups of one record while a writer in another process moves it


class RecordAccess:
    """Reader of records through the index of a writer or of a reader.

    Attributes:
        damages: damaged records found so far, those found by the writer included.
    """

    def __init__(self, folder: Path, index: IndexReader | StoreWriter) -> None:
        self.folder = folder
        self.index = index
        self.damages: list[Damage] = index.damages if isinstance(index, StoreWriter) else []
        self._segments = MappedSegments(folder / segments.FOLDER)
        self._avoided: dict[
            bytes, tuple[int, int]
        ] = {}  # damaged records that a reader cannot remove
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
            entries = self.index.entries()
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
            return self.index.entries()
        except DamagedRecordError as error:
            raise damaged_index(self.folder, str(error)) from None

    def rebuild(self, writer: StoreWriter) -> int:
        """Rebuild the index from the segments and return the number of records found."""
        self._avoided.clear()
        self._segments.close()
        return writer.rebuild()

    def close(self) -> None:
        self._segments.close()
        self.index.close()

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
        if isinstance(self.index, StoreWriter):
            with suppress(StoreFullError):  # the record is avoided in any case
                self.index.remove([key])

    def _note(self, damage: Damage) -> None:
        log.warning("%s: damaged: %s", self.folder, damage)
        self.damages.append(damage)


def _location(entry: IndexEntry) -> tuple[int, int]:
    return entry.segment, entry.offset
