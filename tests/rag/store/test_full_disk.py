"""A disk that takes no more."""

from __future__ import annotations

import errno
import os
import resource
import signal
from contextlib import suppress
from pathlib import Path

import lmdb
import pytest
import torch

from gritlm.rag.kvstore import segments
from gritlm.rag.kvstore.errors import IndexDamagedError, StoreFullError
from gritlm.rag.kvstore.lmdb import lmdb_environment
from tests.rag.store import blocks


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "store"


def no_space(*_: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def fills_up(after: int):
    """``os.pwrite`` on a disk that takes so many bytes more, the last of them in part."""
    left, write = [after], os.pwrite

    def pwrite(file: int, part: memoryview, at: int) -> int:
        if not left[0]:
            no_space()
        part = part[: left[0]]
        left[0] -= len(part)
        return write(file, part, at)

    return pwrite


@pytest.mark.parametrize("takes", [0, 100, 4096, 5000, 8191])
def test_a_full_disk_in_the_middle_of_a_put_loses_nothing_that_was_there(
    folder, takes, monkeypatch
):
    with blocks.opened(folder) as store:
        keys = blocks.put(store, *map(blocks.block, range(5)))
        size = store.nbytes
        more = [blocks.block(seed) for seed in range(5, 8)]
        with monkeypatch.context() as patch:
            patch.setattr(segments.os, "pwrite", fills_up(2 * 8192 + takes))
            with pytest.raises(StoreFullError, match="what was stored before stays readable"):
                blocks.put(store, *more)
        keys += [blocks.key_of(store, one) for one in more]
        assert [key in store for key in keys] == 7 * [True] + [False]
        assert store.nbytes == size + 2 * 8192
        assert sum(path.stat().st_size for path in (folder / "arenas").iterdir()) == store.nbytes
        assert store.put(keys[7], more[2])  # there is space again
    with blocks.opened(folder) as store:
        assert all(blocks.same(store, key, blocks.block(seed)) for seed, key in enumerate(keys))
        assert store.verify() == []


def test_a_disk_that_cannot_sync_acknowledges_nothing(folder, monkeypatch):
    with blocks.opened(folder) as store:
        keys = blocks.put(store, blocks.block(1))
        with monkeypatch.context() as patch:
            patch.setattr(segments, "_datasync", no_space)
            with pytest.raises(StoreFullError):
                blocks.put(store, blocks.block(2))
        assert blocks.same(store, keys[0], blocks.block(1))
        blocks.put(store, blocks.block(2))
        assert store.verify() == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_full_disk_in_the_commit_of_the_index_loses_nothing(folder, monkeypatch, code):
    def write(*_: object) -> None:
        error = lmdb.DiskError("mdb_txn_commit")
        error.code = code
        raise error

    with blocks.opened(folder) as store:
        keys = blocks.put(store, blocks.block(1))
        with monkeypatch.context() as patch:
            patch.setattr(lmdb_environment.LmdbEnvironment, "write", write)
            with pytest.raises(StoreFullError):
                blocks.put(store, blocks.block(2))
            with pytest.raises(StoreFullError):
                store.delete(keys)
            assert blocks.same(store, keys[0], blocks.block(1))
        blocks.put(store, blocks.block(2))
        assert store.gc() > 0  # what was written and never made known
        assert store.verify() == []
        assert store.stats().blocks == 2


def test_a_full_disk_while_compacting_loses_nothing(folder, monkeypatch):
    with blocks.opened(folder) as store:
        keys = blocks.put(store, *map(blocks.block, range(6)))
        store.delete(keys[:3])
        with monkeypatch.context() as patch:
            patch.setattr(segments.os, "pwrite", fills_up(8192 + 100))
            with pytest.raises(StoreFullError):
                store.gc()
        assert all(blocks.same(store, keys[n], blocks.block(n)) for n in range(3, 6))
    with blocks.opened(folder) as store:
        assert all(blocks.same(store, keys[n], blocks.block(n)) for n in range(3, 6))
        store.gc()
        assert store.nbytes == 3 * 8192


def test_uses_that_cannot_be_noted_do_not_keep_anyone_from_reading(folder, monkeypatch):
    with blocks.opened(folder) as store:
        (key,) = blocks.put(store, blocks.block(1))
        monkeypatch.setattr("gritlm.rag.kvstore.lmdb.transactions._HITS", 1)
        with monkeypatch.context() as patch:
            patch.setattr(lmdb_environment.LmdbEnvironment, "write", no_space)
            assert blocks.same(store, key, blocks.block(1))
        assert blocks.same(store, key, blocks.block(1))


@pytest.mark.parametrize("verb", ["fetch", "delete", "evict"])
def test_a_block_that_others_lose_while_it_is_put_is_not_acknowledged(folder, monkeypatch, verb):
    monkeypatch.setattr("gritlm.rag.kvstore.lmdb.transactions._HITS", 1)
    made = [blocks.block(3), blocks.block(4)]
    with blocks.opened(folder) as store:
        there = blocks.put(store, blocks.block(1))[0]
        keys = [blocks.key_of(store, one) for one in made]
        argument = {"fetch": there, "delete": [there], "evict": 1}[verb]

        def losing_the_first():
            yield keys[0], made[0]
            with monkeypatch.context() as patch, suppress(StoreFullError):
                patch.setattr(lmdb_environment.LmdbEnvironment, "write", no_space)
                getattr(store, verb)(argument)
            yield keys[1], made[1]

        with pytest.raises(StoreFullError, match="could not be made known"):
            store.put_many(losing_the_first())
        assert [key in store for key in keys] == [False, True]
        assert store.put(keys[0], made[0])
    with blocks.opened(folder) as store:
        assert all(blocks.same(store, key, one) for key, one in zip(keys, made, strict=True))


def test_an_index_that_cannot_be_made_anew_stays_as_it_is(folder, monkeypatch):
    made = [blocks.block(1), blocks.block(2)]
    with blocks.opened(folder) as store:
        keys = [blocks.key_of(store, one) for one in made]

        def rebuilding():
            yield keys[0], made[0]
            with monkeypatch.context() as patch:
                patch.setattr(lmdb_environment.LmdbEnvironment, "write", no_space)
                with pytest.raises(StoreFullError):
                    store.rebuild()
            yield keys[1], made[1]

        assert store.put_many(rebuilding()) == 2
        assert all(blocks.same(store, key, one) for key, one in zip(keys, made, strict=True))
        assert store.rebuild() == 2


@pytest.mark.parametrize("fails", ["ftruncate", "pwrite"])
def test_a_lock_that_cannot_be_written_is_given_back(folder, monkeypatch, fails):
    with monkeypatch.context() as patch:
        patch.setattr(os, fails, no_space)
        with pytest.raises(StoreFullError):
            blocks.opened(folder)
    blocks.opened(folder).close()


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


@pytest.mark.parametrize("fails", ["evicting", "copying", "repairing", "rebuilding"])
def test_a_store_that_cannot_be_opened_lets_go_of_all_its_files(folder, monkeypatch, fails):
    with blocks.opened(folder) as store:
        blocks.put(store, *map(blocks.block, range(30)))
    (segment,) = (folder / "arenas").iterdir()
    if fails == "repairing":
        os.truncate(segment, 29 * 8192)
    if fails == "rebuilding":
        (folder / "index.lmdb" / "data.mdb").write_bytes(b"")
    before = open_files()
    with monkeypatch.context() as patch:
        if fails == "copying":
            patch.setattr(os, "pwrite", fills_up(8192))
        else:
            patch.setattr(lmdb_environment.LmdbEnvironment, "write", no_space)
        with pytest.raises(StoreFullError):
            blocks.opened(folder, disk_bytes=20 * 8192)
    assert open_files() == before
    with blocks.opened(folder) as store:
        assert store.nbytes <= 20 * 8192
        assert store.verify() == []


def test_a_store_that_cannot_be_closed_well_lets_go_of_all_its_files(folder, monkeypatch):
    def write(*_: object) -> None:
        raise lmdb.CorruptedError("mdb_put")

    blocks.opened(folder).close()
    before = open_files()
    store = blocks.opened(folder)
    store.fetch(*blocks.put(store, blocks.block(1)))
    with monkeypatch.context() as patch:
        patch.setattr(lmdb_environment.LmdbEnvironment, "write", write)
        with pytest.raises(IndexDamagedError):
            store.close()
    assert open_files() == before
    blocks.opened(folder).close()


def test_an_index_that_cannot_be_made_is_a_full_disk_too(folder, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        error = lmdb.Error("index.lmdb.new: No space left on device")
        error.code = errno.ENOSPC
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(lmdb_environment.lmdb, "open", refuse)
        with pytest.raises(StoreFullError):
            blocks.opened(folder)
    blocks.opened(folder).close()


def test_a_store_that_cannot_be_made_says_so_and_gives_the_lock_back(folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("gritlm.rag.kvstore.manifest.replacing", no_space)
        with pytest.raises(StoreFullError):
            blocks.opened(folder)
    blocks.opened(folder).close()


def fill(folder: Path) -> None:
    """Until the system itself refuses: files of this process may not grow above some bytes.

    The limit is lifted at the end: a measurement of coverage writes a larger file when this
    process exits, and a fork that cannot exit would go on with the tests of its parent.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    keys = []
    try:
        with blocks.opened(folder) as store:
            with suppress(StoreFullError):
                for seed in range(100):
                    keys += blocks.put(store, blocks.block(seed))
            assert len(keys) == 100_000 // 8192
            assert all(blocks.same(store, key, blocks.block(seed)) for seed, key in enumerate(keys))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # this child uses no threads
def test_a_limit_of_the_system_is_a_full_disk_too(folder):
    child = blocks.processes.Process(target=fill, args=(folder,))
    child.start()
    child.join()
    assert child.exitcode == 0
    with blocks.opened(folder) as store:
        assert store.stats().blocks == 12
        assert store.damages == store.verify() == []
