"""What is done when a store is opened for writing, and when its index is made anew.

A record says which commit was to make it known. One that is whole, and of a commit behind the last
one of the index, was written by a process that ended in between, or its commit was lost: it is
taken in. All others that the index does not name were evicted or deleted.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from blake3 import blake3

from gritlm.rag.kvstore import eviction, segments
from gritlm.rag.kvstore.errors import Damage, DamagedRecordError
from gritlm.rag.kvstore.lmdb import lmdb_index
from gritlm.rag.kvstore.lmdb.lmdb_index import IndexEntry, IndexState, LmdbIndex
from gritlm.rag.kvstore.record import RecordHeader
from gritlm.rag.kvstore.segments import SegmentFiles, segment_path
from gritlm.runtime import sync

Index = tuple[dict[bytes, IndexEntry], IndexState]


def opened(folder: Path, found: SegmentFiles) -> tuple[LmdbIndex, Index, list[Damage]]:
    """The index of a store with these arenas; made anew where it cannot be trusted."""
    place = folder / lmdb_index.FOLDER
    reason = None
    try:
        index = LmdbIndex.open(place)
        try:
            return index, index.read(), []
        except DamagedRecordError as error:
            index.close()
            reason = str(error)
    except DamagedRecordError as error:
        reason = str(error)
    index, contents, damages = rebuilt(folder, found)
    if found.sizes:
        damages.insert(0, Damage(b"", -1, 0, f"made anew from the arenas: {reason}"))
    return index, contents, damages


def rebuilt(folder: Path, found: SegmentFiles) -> tuple[LmdbIndex, Index, list[Damage]]:
    """A new index out of the headers of all records whose payload is what was written.

    Hits are forgotten; what was deleted and not yet collected comes back.
    """
    entries: dict[bytes, IndexEntry] = {}
    damages: list[Damage] = []
    commit = 0
    for segment in found.sizes:
        for offset, header, whole in _records(found, segment):
            commit = max(commit, header.commit)
            if whole:
                entries[header.key] = entry_of(header, segment, offset, age=0.0)
            else:
                damages.append(Damage(header.key, segment, offset, "the payload does not fit"))
    state = IndexState(commit=commit, segment=found.active, clock=0.0)
    return _replaced(folder, entries, state), (entries, state), damages


def _replaced(folder: Path, entries: dict[bytes, IndexEntry], state: IndexState) -> LmdbIndex:
    """Written beside the old one, then put in its place."""
    place = folder / lmdb_index.FOLDER
    new = place.with_suffix(".new")
    old = place.with_suffix(".old")
    for stale in (new, old):
        shutil.rmtree(stale, ignore_errors=True)
    made = LmdbIndex.open(new, create=True)
    try:
        made.write(entries, (), state)
    finally:
        made.close()
    sync(new)
    if place.exists():
        place.rename(old)
    new.rename(place)
    sync(folder)
    shutil.rmtree(old, ignore_errors=True)
    return LmdbIndex.open(place)


def repaired(
    index: Index, found: SegmentFiles
) -> tuple[dict[bytes, IndexEntry], set[bytes], list[Damage]]:
    """Hold an index against the files -> records to take in, keys to take out, what is damaged.

    Torn ends of files are cut off.
    """
    entries, state = index
    lost = {key: entry for key, entry in entries.items() if _beyond(entry, found)}
    damages = [
        Damage(key, entry.segment, entry.offset, "the file ends before the record does")
        for key, entry in lost.items()
    ]
    kept = {key: entry for key, entry in entries.items() if key not in lost}
    adopted: dict[bytes, IndexEntry] = {}
    for segment in [number for number in found.sizes if number >= state.segment]:
        end = max((entry.end for entry in kept.values() if entry.segment == segment), default=0)
        for offset, header in segments.walk(segment_path(found.folder, segment)):
            entry = entry_of(header, segment, offset, age=state.clock)
            end = max(end, entry.end)
            if header.commit > state.commit and _whole(found, entry, header):
                adopted[header.key] = _moved(kept.get(header.key), entry)
        if end < found.sizes[segment]:
            found.cut(segment, end)
    return adopted, lost.keys() - adopted.keys(), damages


def entry_of(header: RecordHeader, segment: int, offset: int, *, age: float) -> IndexEntry:
    """What the index says of a record that nobody has asked for yet."""
    tokens = len(header.token_ids)
    return IndexEntry(
        segment=segment,
        offset=offset,
        header=header.nbytes,
        payload=header.payload,
        tokens=tokens,
        hits=0,
        cost=eviction.cost(tokens),
        age=age,
        used=time.time(),
    )


def proof(folder: Path, key: bytes, entry: IndexEntry) -> str | None:
    """Read a record from the disk and hold it against all that its header says -> what is wrong."""
    try:
        file = os.open(segment_path(folder, entry.segment), os.O_RDONLY)
    except OSError as error:
        return f"the file cannot be opened: {error.strerror}"
    try:
        header = segments.header_at(file, entry.offset)
        if (header.key, header.nbytes, header.payload) != (key, entry.header, entry.payload):
            return "another record lies here"
        payload = segments.payload_at(file, entry.offset, header)
        return None if blake3(payload).digest() == header.digest else "the payload does not fit"
    except (DamagedRecordError, OSError) as error:
        return str(error)
    finally:
        os.close(file)


def _records(found: SegmentFiles, segment: int) -> Iterator[tuple[int, RecordHeader, bool]]:
    for offset, header in segments.walk(segment_path(found.folder, segment)):
        entry = entry_of(header, segment, offset, age=0.0)
        yield offset, header, _whole(found, entry, header)


def _whole(found: SegmentFiles, entry: IndexEntry, header: RecordHeader) -> bool:
    return proof(found.folder, header.key, entry) is None


def _moved(before: IndexEntry | None, now: IndexEntry) -> IndexEntry:
    """A copy that compacting made is as old, and as often used, as what it is a copy of."""
    return now if before is None else replace(before, segment=now.segment, offset=now.offset)


def _beyond(entry: IndexEntry, found: SegmentFiles) -> bool:
    return entry.end > found.sizes.get(entry.segment, 0)
