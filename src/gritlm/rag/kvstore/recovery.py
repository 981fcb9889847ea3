"""Recovery of a store when it is opened for writing, and rebuilding of its index.

Each record has the number of the commit that was to add it to the index. An intact record with a
later number than the last commit was written by a process that ended before the commit, or its
commit was lost: the record is added. All other records missing from the index were evicted or
deleted.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from blake3 import blake3

from gritlm.atomic import sync
from gritlm.rag.kvstore import eviction, segments
from gritlm.rag.kvstore.errors import Damage, DamagedRecordError
from gritlm.rag.kvstore.lmdb import lmdb_index
from gritlm.rag.kvstore.lmdb.lmdb_index import IndexState, LmdbIndex
from gritlm.rag.kvstore.record import IndexEntry, RecordHeader
from gritlm.rag.kvstore.segments import SegmentFiles, segment_path

Index = tuple[dict[bytes, IndexEntry], IndexState]


def open_index(folder: Path, files: SegmentFiles) -> tuple[LmdbIndex, Index, list[Damage]]:
    """Open the index of a store; rebuild it from the segments if it is damaged."""
    index_folder = folder / lmdb_index.FOLDER
    reason = None
    try:
        index = LmdbIndex.open(index_folder)
        try:
            return index, index.read(), []
        except DamagedRecordError as error:
            index.close()
            reason = str(error)
    except DamagedRecordError as error:
        reason = str(error)
    index, contents, damages = rebuild_index(folder, files)
    if files.sizes:
        damages.insert(0, Damage(b"", -1, 0, f"rebuilt from the segments: {reason}"))
    return index, contents, damages


def rebuild_index(folder: Path, files: SegmentFiles) -> tuple[LmdbIndex, Index, list[Damage]]:
    """Rebuild the index from the headers of all records whose payload is intact.

    Hit counts are lost. Deleted records that ``gc`` has not removed yet are stored again.
    """
    entries: dict[bytes, IndexEntry] = {}
    damages: list[Damage] = []
    commit = 0
    for segment in files.sizes:
        for offset, header, intact in _records(files, segment):
            commit = max(commit, header.commit)
            if intact:
                entries[header.key] = entry_of(header, segment, offset, age=0.0)
            else:
                damages.append(Damage(header.key, segment, offset, "the payload does not fit"))
    state = IndexState(commit=commit, segment=files.active, clock=0.0)
    return _replace_index(folder, entries, state), (entries, state), damages


def _replace_index(folder: Path, entries: dict[bytes, IndexEntry], state: IndexState) -> LmdbIndex:
    """Write a new index next to the old one, then replace the old one by renaming."""
    index_folder = folder / lmdb_index.FOLDER
    new = index_folder.with_suffix(".new")
    old = index_folder.with_suffix(".old")
    for stale in (new, old):
        shutil.rmtree(stale, ignore_errors=True)
    new_index = LmdbIndex.open(new, create=True)
    try:
        new_index.write(entries, (), state)
    finally:
        new_index.close()
    sync(new)
    if index_folder.exists():
        index_folder.rename(old)
    new.rename(index_folder)
    sync(folder)
    shutil.rmtree(old, ignore_errors=True)
    return LmdbIndex.open(index_folder)


def reconcile(
    index: Index, files: SegmentFiles
) -> tuple[dict[bytes, IndexEntry], set[bytes], list[Damage]]:
    """Compare an index with the segments and truncate torn ends of files.

    Returns:
        Records to add to the index, keys to remove from it, and the damage found.
    """
    entries, state = index
    lost = {key: entry for key, entry in entries.items() if _is_truncated(entry, files)}
    damages = [
        Damage(key, entry.segment, entry.offset, "the file ends before the record does")
        for key, entry in lost.items()
    ]
    kept = {key: entry for key, entry in entries.items() if key not in lost}
    adopted: dict[bytes, IndexEntry] = {}
    for segment in [number for number in files.sizes if number >= state.segment]:
        end = max((entry.end for entry in kept.values() if entry.segment == segment), default=0)
        for offset, header in segments.walk(segment_path(files.folder, segment)):
            entry = entry_of(header, segment, offset, age=state.clock)
            end = max(end, entry.end)
            if header.commit > state.commit and _is_intact(files, entry, header):
                adopted[header.key] = _with_history(kept.get(header.key), entry)
        if end < files.sizes[segment]:
            files.cut(segment, end)
    return adopted, lost.keys() - adopted.keys(), damages


def entry_of(header: RecordHeader, segment: int, offset: int, *, age: float) -> IndexEntry:
    """Return the index entry of a record that has not been requested yet."""
    tokens = len(header.token_ids)
    return IndexEntry(
        segment=segment,
        offset=offset,
        header=header.nbytes,
        payload=header.payload,
        tokens=tokens,
        hits=0,
        cost=eviction.recompute_cost(tokens),
        age=age,
        used=time.time(),
    )


def find_mismatch(folder: Path, key: bytes, entry: IndexEntry) -> str | None:
    """Read a record from disk and compare it with its header; return the mismatch or None."""
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


def _records(files: SegmentFiles, segment: int) -> Iterator[tuple[int, RecordHeader, bool]]:
    for offset, header in segments.walk(segment_path(files.folder, segment)):
        entry = entry_of(header, segment, offset, age=0.0)
        yield offset, header, _is_intact(files, entry, header)


def _is_intact(files: SegmentFiles, entry: IndexEntry, header: RecordHeader) -> bool:
    return find_mismatch(files.folder, header.key, entry) is None


def _with_history(before: IndexEntry | None, now: IndexEntry) -> IndexEntry:
    """Return the entry at its new location, with hits and age of the record it copies."""
    return now if before is None else replace(before, segment=now.segment, offset=now.offset)


def _is_truncated(entry: IndexEntry, files: SegmentFiles) -> bool:
    return entry.end > files.sizes.get(entry.segment, 0)
