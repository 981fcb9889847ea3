"""A reader that may not write to the folder of a store, while a writer commits."""

from __future__ import annotations

import os
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from tests.rag.store import blocks

# Python 3.12 warns of a fork beside threads; these children use none.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

NOBODY = 65534
SECONDS = 3.0


def let_others_read(folder: Path) -> None:
    for path in [*folder.parents, folder, *folder.rglob("*")]:
        if path.stat().st_uid == os.getuid():
            path.chmod(path.stat().st_mode | (0o055 if path.is_dir() else 0o044))


def read_on(folder: Path, ends: float, tell: Connection) -> None:
    """Walk all entries, look keys up and verify, as another user, until some moment."""
    torch.set_num_threads(1)
    if os.getuid() == 0:
        os.setuid(NOBODY)
    assert not os.access(folder / "index.lmdb", os.W_OK)
    walks, found, wrong = 0, 0, []
    with blocks.opened(folder, read_only=True) as store:
        key = blocks.key_of(store, blocks.block(0))
        while time.monotonic() < ends:
            store.stats()
            found += key in store
            wrong += map(str, store.verify())
            walks += 1
    tell.send((walks, found, wrong))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_reader_without_the_right_to_write_is_never_ended_by_a_busy_writer(tmp_path):
    folder = tmp_path / "store"
    with blocks.opened(folder) as store:
        kept = blocks.put(store, *map(blocks.block, range(40)))
    let_others_read(folder)
    ends = time.monotonic() + SECONDS
    children = []
    for _ in range(2):  # before the writer opens the store: what LMDB has open survives no fork
        here, there = blocks.processes.Pipe()
        child = blocks.processes.Process(target=read_on, args=(folder, ends, there))
        child.start()
        children.append((child, here))
    number = 100
    with blocks.opened(folder) as store:
        while time.monotonic() < ends:
            number += 1
            (key,) = blocks.put(store, blocks.block(number))
            store.delete([key])
            store.delete(kept[20:])
            kept[20:] = blocks.put(store, *map(blocks.block, range(20, 40)))
    assert number > 120
    for child, here in children:
        child.join(20)
        assert child.exitcode == 0
        walks, found, wrong = here.recv()
        assert walks > 3
        assert found == walks  # block 0 is there all the time
        assert wrong == []
