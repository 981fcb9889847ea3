"""The index by itself."""

from __future__ import annotations

import pytest

from gritlm.rag.kvstore.errors import DamagedRecordError
from gritlm.rag.kvstore.lmdb.lmdb_index import IndexState, LmdbIndex
from gritlm.rag.kvstore.record import IndexEntry

ENTRY = IndexEntry(3, 8192, 200, 4000, 100, 7, 1.5, 0.25, 1.7e9)


def name(number: int) -> bytes:
    return number.to_bytes(32, "big")


def test_entries_come_back_as_they_were_written(tmp_path):
    index = LmdbIndex.open(tmp_path / "index", create=True)
    index.write({name(1): ENTRY, name(2): ENTRY}, (), IndexState(1, 3, 0.5))
    index.write({}, [name(2)], IndexState(2, 4, 0.75))
    assert index.get(name(1)) == ENTRY
    assert index.get(name(2)) is None
    index.close()
    index = LmdbIndex.open(tmp_path / "index")
    assert index.read() == ({name(1): ENTRY}, IndexState(2, 4, 0.75))
    index.close()


def test_the_map_grows_when_it_is_full_and_others_follow(tmp_path):
    small = LmdbIndex.open(tmp_path / "index", create=True, map_bytes=64 * 1024)
    small.write({name(number): ENTRY for number in range(2000)}, (), IndexState(1, 1, 0.0))
    assert len(small.read()[0]) == 2000
    small.close()
    index = LmdbIndex.open(tmp_path / "index", map_bytes=64 * 1024)
    assert index.get(name(1999)) == ENTRY
    index.close()


def test_one_process_may_open_an_index_twice(tmp_path):
    one = LmdbIndex.open(tmp_path / "index", create=True)
    one.write({}, (), IndexState(1, 1, 0.0))
    other = LmdbIndex.open(tmp_path / "index")
    one.write({name(1): ENTRY}, (), IndexState(2, 1, 0.0))
    one.close()
    assert other.get(name(1)) == ENTRY
    other.close()


def test_an_index_that_is_not_there_is_not_made_by_looking(tmp_path):
    with pytest.raises(DamagedRecordError):
        LmdbIndex.open(tmp_path / "index")
    assert not (tmp_path / "index").exists()
