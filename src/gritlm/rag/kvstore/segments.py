"""Append-only segment files of records: ``arenas/000001.kv``, ``000002.kv``, ...

Numbers only grow: the highest segment is removed only after a higher one exists, so a location is
never reused for another record. Only bytes that no index has referred to are truncated.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from gritlm.atomic import sync
from gritlm.rag.kvstore import record
from gritlm.rag.kvstore.errors import DamagedRecordError, full, is_full
from gritlm.rag.kvstore.record import ALIGN, RecordHeader, aligned
from gritlm.runtime import file_mode, private_folder

FOLDER = "arenas"

_datasync = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync


def segment_path(folder: Path, number: int) -> Path:
    """Return the path of a segment."""
    return folder / f"{number:06d}.kv"


def segments(folder: Path) -> dict[int, int]:
    """Return the size in bytes of each existing segment, by number in ascending order."""
    found = {}
    for path in folder.glob("*.kv"):
        with suppress(ValueError, FileNotFoundError):  # not ours, or gone by now
            found[int(path.stem)] = path.stat().st_size
    return dict(sorted(found.items()))


class SegmentFiles:
    """Segment files of a store, open for writing.

    Attributes:
        folder: folder of the segments.
        segment_bytes: size in bytes at which a new segment is started.
        sizes: bytes of each segment, by number.
    """

    def __init__(self, folder: Path, *, segment_bytes: int) -> None:
        private_folder(folder)
        self.folder = folder
        self.segment_bytes = segment_bytes
        self.sizes = segments(folder)
        self._file = -1
        if self.sizes:
            self._file = os.open(segment_path(folder, self.active), os.O_RDWR)

    @property
    def active(self) -> int:
        """Number of the segment being written; 0 before the first."""
        return max(self.sizes, default=0)

    def append(self, header: bytes, payload: memoryview) -> tuple[int, int]:
        """Append a record and return its segment and offset; durable after :meth:`sync`.

        Raises:
            StoreFullError: if the disk is full; the incomplete record is truncated.
        """
        nbytes = len(header) + aligned(len(payload))
        if self._file < 0 or 0 < self.sizes[self.active] > self.segment_bytes - nbytes:
            self.roll()
        offset = self.sizes[self.active]
        padding = b"\0" * (aligned(len(payload)) - len(payload))
        try:
            at = offset
            for part in (memoryview(header), payload, memoryview(padding)):
                at = self._write(part, at)
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._file, offset)
            raise full(self.folder.parent, error) if is_full(error) else error from None
        self.sizes[self.active] = at
        return self.active, offset

    def _write(self, part: memoryview, at: int) -> int:
        while part:
            written = os.pwrite(self._file, part, at)
            part = part[written:]
            at = at + written
        return at

    def sync(self) -> None:
        """Flush everything appended so far to disk."""
        if self._file >= 0:
            try:
                _datasync(self._file)
            except OSError as error:
                raise full(self.folder.parent, error) if is_full(error) else error from None

    def roll(self) -> None:
        """Start a new segment."""
        self.sync()
        number = self.active + 1
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        try:
            mode = file_mode(self.folder)
            file = os.open(segment_path(self.folder, number), flags, mode)
        except OSError as error:
            raise full(self.folder.parent, error) if is_full(error) else error from None
        self.close()
        self._file, self.sizes[number] = file, 0
        sync(self.folder)

    def read(self, segment: int, offset: int, nbytes: int) -> bytes:
        """Return the raw bytes of a record: header and payload with their padding."""
        with segment_path(self.folder, segment).open("rb") as file:
            return os.pread(file.fileno(), nbytes, offset)

    def cut(self, segment: int, size: int) -> None:
        """Truncate a segment to ``size`` bytes; no index may refer to the bytes behind."""
        os.truncate(segment_path(self.folder, segment), size)
        self.sizes[segment] = size

    def drop(self, segment: int) -> int:
        """Remove a segment and return the bytes freed; existing mappings stay valid."""
        if segment == self.active:
            self.roll()
        segment_path(self.folder, segment).unlink(missing_ok=True)
        return self.sizes.pop(segment)

    def close(self) -> None:
        """Close the active segment."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def walk(path: Path) -> Iterator[tuple[int, RecordHeader]]:
    """Yield offset and header of each complete record with an intact header.

    Where no record begins, the next multiple of 4 KiB is tried.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        offset = 0
        while offset < size:
            try:
                header = header_at(file.fileno(), offset)
            except DamagedRecordError:
                offset += ALIGN
                continue
            end = offset + aligned(header.nbytes) + aligned(header.payload)
            if end > size:
                offset += ALIGN
                continue
            yield offset, header
            offset = end


def header_at(file: int, offset: int) -> RecordHeader:
    """Return the header at an offset of an open segment.

    Raises:
        DamagedRecordError: if no header begins there, or it differs from the bytes written.
    """
    start = os.pread(file, ALIGN, offset)
    nbytes = record.length(start)
    if offset + nbytes > os.fstat(file).st_size:
        raise DamagedRecordError("the header is longer than its file")
    if nbytes > len(start):
        start += os.pread(file, nbytes - len(start), offset + len(start))
    return record.unpack(start[:nbytes])


def payload_at(file: int, offset: int, header: RecordHeader) -> bytes:
    """Return the payload of the record whose header begins at ``offset``."""
    return os.pread(file, header.payload, offset + aligned(header.nbytes))
