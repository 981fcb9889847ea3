"""Records as they are read: mapped once a segment, checked once a record, never copied.

A map is private and copy-on-write: torch wants writable memory, and what anybody wrote there would
not reach the file.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import torch
from torch import Tensor

from gritlm.rag.kvstore import record
from gritlm.rag.kvstore.errors import DamagedRecordError, SegmentGoneError
from gritlm.rag.kvstore.lmdb.lmdb_index import IndexEntry
from gritlm.rag.kvstore.record import RecordHeader, aligned
from gritlm.rag.kvstore.segments import segment_path


class MappedSegments:
    """The segments that this process has mapped."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._maps: dict[int, mmap.mmap] = {}
        self._proven: dict[int, set[int]] = {}  # segment -> offsets of records that were checked

    def read(self, key: bytes, entry: IndexEntry) -> tuple[RecordHeader, Tensor]:
        """Header and payload (L, B) of a record; the payload is a view of the file.

        Raises:
            GoneError: when its segment is not there.
            BrokenError: when it is not what was written.
        """
        area = self._mapped(entry)
        header = record.unpack(area[entry.offset : entry.offset + entry.header])
        if (header.key, header.payload) != (key, entry.payload):
            raise DamagedRecordError("another record lies here")
        raw_LB = torch.frombuffer(
            area,
            dtype=torch.uint8,
            count=entry.payload,
            offset=entry.offset + aligned(entry.header),
        ).view(header.shape[0], -1)
        proven = self._proven.setdefault(entry.segment, set())
        if entry.offset not in proven:
            layer = record.damaged_layer(raw_LB, header)
            if layer is not None:
                raise DamagedRecordError(f"the checksum of layer {layer} does not fit")
            proven.add(entry.offset)
        return header, raw_LB

    def forget(self, segment: int) -> None:
        """Let go of a segment; tensors that view it keep it alive for themselves."""
        self._maps.pop(segment, None)
        self._proven.pop(segment, None)

    def close(self) -> None:
        for segment in list(self._maps):
            self.forget(segment)

    def _mapped(self, entry: IndexEntry) -> mmap.mmap:
        area = self._maps.get(entry.segment)
        if area is None or len(area) < entry.end:
            self._forget_gone()
            area = self._maps[entry.segment] = _map(segment_path(self.folder, entry.segment))
        if area.size() < entry.end:  # of the file, now: to touch what was cut off would be the end
            self.forget(entry.segment)
            raise DamagedRecordError("the file is shorter than the record")
        return area

    def _forget_gone(self) -> None:
        """A file that was removed takes up the disk for as long as it is mapped."""
        for segment in list(self._maps):
            if not segment_path(self.folder, segment).exists():
                self.forget(segment)


def _map(path: Path) -> mmap.mmap:
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
