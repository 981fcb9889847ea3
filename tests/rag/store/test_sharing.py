"""One writer, many readers, in several processes."""

from __future__ import annotations

import os
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from gritlm.rag.kvstore.errors import StoreLockedError
from tests.rag.store import blocks

# Python 3.12 warns of a fork beside threads; these children use none.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

LAST = 999  # the block that ends the game


@pytest.fixture
def folder(tmp_path):
    blocks.opened(tmp_path / "store").close()
    return tmp_path / "store"


def read_on(folder: Path, tell: Connection) -> None:
    """Fetch until the last block is there -> how many were found, and what went wrong."""
    torch.set_num_threads(1)
    made = {seed: blocks.block(seed) for seed in range(30)}
    found = 0
    wrong: list[object] = []
    end = time.monotonic() + 20
    with blocks.opened(folder, read_only=True, memory_bytes=4000) as store:
        tell.send("ready")
        last = blocks.key_of(store, blocks.block(LAST))
        while last not in store and time.monotonic() < end:
            for seed, one in made.items():
                got = store.fetch(blocks.key_of(store, one))
                found += got is not None
                if got is not None and not torch.equal(got.block.data, one.data):
                    wrong.append(seed)
        wrong += map(str, store.damages)
        wrong += map(str, store.verify())
        tell.send((found, last in store, wrong))


def test_two_readers_see_whole_blocks_while_a_writer_puts_deletes_and_compacts(folder):
    children = []
    for _ in range(2):
        here, there = blocks.processes.Pipe()
        child = blocks.processes.Process(target=read_on, args=(folder, there))
        child.start()
        children.append((child, here))
    for _, here in children:
        assert here.recv() == "ready"
    with blocks.opened(folder, disk_bytes=30 * 8192) as store:
        for number in range(150):
            blocks.put(store, blocks.block(number % 30))
            if number % 3 == 0:
                store.delete([blocks.key_of(store, blocks.block((number * 7) % 30))])
            if number % 10 == 0:
                store.gc()
            if number == 75:
                store.rebuild()
        blocks.put(store, blocks.block(LAST))
        results = [here.recv() for _, here in children]
    for child, _ in children:
        child.join()
    for found, ended, wrong in results:
        assert ended
        assert found > 0
        assert wrong == []


def test_a_reader_sees_what_is_put_and_deleted_without_opening_anew(folder):
    with blocks.opened(folder, read_only=True) as reader, blocks.opened(folder) as store:
        (key,) = blocks.put(store, blocks.block(1))
        assert blocks.same(reader, key, blocks.block(1))
        store.delete([key])
        assert reader.fetch(key) is None
        assert reader.stats().blocks == 0


def test_a_reader_keeps_reading_what_the_writer_moved(folder):
    with blocks.opened(folder) as store:
        keys = blocks.put(store, *map(blocks.block, range(10)))
        with blocks.opened(folder, read_only=True) as reader:
            assert reader.fetch(keys[9]) is not None
            store.delete(keys[:5])
            assert store.gc() == 5 * 8192
            assert all(blocks.same(reader, keys[n], blocks.block(n)) for n in range(5, 10))
            assert reader.damages == []


def test_a_reader_changes_nothing(folder):
    with blocks.opened(folder, read_only=True) as reader:
        for verb in (
            lambda: reader.delete([b"x" * 32]),
            lambda: reader.evict(1),
            reader.gc,
            reader.rebuild,
            lambda: reader.put_many([]),
        ):
            with pytest.raises(ValueError, match="opened for reading"):
                verb()


def hold(folder: Path, tell: Connection) -> None:
    with blocks.opened(folder):
        tell.send(os.getpid())
        time.sleep(60)


def test_a_second_writer_is_told_who_holds_the_store_and_takes_over_when_that_one_is_killed(folder):
    here, there = blocks.processes.Pipe()
    child = blocks.processes.Process(target=hold, args=(folder, there))
    child.start()
    holder = here.recv()
    with pytest.raises(StoreLockedError, match=rf"process {holder} on \S+ since 20"):
        blocks.opened(folder)
    blocks.opened(folder, read_only=True).close()  # readers are welcome
    child.kill()
    child.join()
    blocks.opened(folder).close()


def test_a_second_writer_in_the_same_process_is_refused_too(folder):
    with (
        blocks.opened(folder),
        pytest.raises(StoreLockedError, match=f"process {os.getpid()}"),
    ):
        blocks.opened(folder)


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written to"):
        blocks.opened(tmp_path / "file" / "store")
