"""Read-only index of a store; another process may write to it."""

from __future__ import annotations

from pathlib import Path

from gritlm.rag.kvstore import segments
from gritlm.rag.kvstore.errors import DamagedRecordError, damaged_index
from gritlm.rag.kvstore.lmdb import lmdb_index
from gritlm.rag.kvstore.lmdb.lmdb_index import LmdbIndex
from gritlm.rag.kvstore.record import IndexEntry


class IndexReader:
    """Read-only index that looks up every key on disk, so that it sees the writer's commits.

    Raises:
        IndexDamagedError: if the index is damaged; a reader cannot rebuild it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self._index = LmdbIndex.open(folder / lmdb_index.FOLDER)
        except DamagedRecordError as error:
            raise damaged_index(folder, str(error)) from None

    def get(self, key: bytes) -> IndexEntry | None:
        """Return the index entry of a record; None if it is not stored.

        Raises:
            DamagedRecordError: if the entry differs from the bytes written.
        """
        return self._index.get(key)

    def snapshot(self) -> dict[bytes, IndexEntry]:
        """Return the index entries of all records, by key.

        Raises:
            DamagedRecordError: if an entry differs from the bytes written.
        """
        return self._index.read()[0]

    def sizes(self) -> dict[int, int]:
        """Return the bytes of each segment, by number."""
        return segments.segments(self.folder / segments.FOLDER)

    def close(self) -> None:
        """Close the index."""
        self._index.close()
