"""The index of a store that another process may be writing to."""

from __future__ import annotations

from pathlib import Path

from gritlm.rag.kvstore import segments
from gritlm.rag.kvstore.errors import DamagedRecordError, damaged_index
from gritlm.rag.kvstore.lmdb import lmdb_index
from gritlm.rag.kvstore.lmdb.lmdb_index import IndexEntry, LmdbIndex


class IndexReader:
    """Looks every key up anew, so that it sees what the writer did.

    Raises:
        IndexDamagedError: when the index cannot be trusted; a reader cannot make it anew.
    """

    refused = evicted = 0  # it never does either

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self._catalogue = LmdbIndex.open(folder / lmdb_index.FOLDER)
        except DamagedRecordError as error:
            raise damaged_index(folder, str(error)) from None

    def get(self, key: bytes) -> IndexEntry | None:
        """Where a record is; None when it is not stored.

        Raises:
            BrokenError: when the index does not say what was written.
        """
        return self._catalogue.get(key)

    def entries(self) -> dict[bytes, IndexEntry]:
        """All records.

        Raises:
            BrokenError: as :meth:`get`.
        """
        return self._catalogue.read()[0]

    def sizes(self) -> dict[int, int]:
        """Bytes of each segment."""
        return segments.segments(self.folder / segments.FOLDER)

    def close(self) -> None:
        self._catalogue.close()
