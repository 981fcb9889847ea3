"""Zero-copy reads of records from memory-mapped segments; each record is checked once.

A mapping is private and copy-on-write: torch requires writable memory, and writes to it must not
reach the file.
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
