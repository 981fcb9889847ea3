"""Flipped bits, cut files, a lost index: a miss that is reported, never a guess."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from gritlm.rag.kvstore.errors import IndexDamagedError
from gritlm.rag.kvstore.record import ALIGN
from gritlm.rag.kvstore.store import KVStore
from tests.rag.store import blocks

HEADER, PAYLOAD = 188, 1440 * 4  # bytes of a block of 10 tokens that say something


@pytest.fixture
def folder(tmp_path):
    """Three blocks of ten tokens, in one segment."""
    with blocks.opened(tmp_path / "store") as store:
        blocks.put(store, *(blocks.block(seed, tokens=10) for seed in range(3)))
    return tmp_path / "store"


def segment(folder: Path) -> Path:
    return max((folder / "arenas").glob("*.kv"))


def flip(path: Path, at: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << bit
    path.write_bytes(content)


def there(store: KVStore) -> list[bool]:
    """Whether each block comes back; exactly, or not at all."""
    found = []
    for seed in range(3):
        made = blocks.block(seed, tokens=10)
        key = blocks.key_of(store, made)
        missing = store.fetch(key) is None
        found.append(not missing)
        assert missing or blocks.same(store, key, made)
    return found


def second_record(folder: Path) -> int:
    """Where the record of the second block begins."""
    return segment(folder).stat().st_size // 3


@pytest.mark.parametrize("part", ["header", "payload"])
def test_a_flipped_bit_makes_a_miss_of_that_block_alone(folder, part):
    dice = random.Random(part)
    pristine = segment(folder).read_bytes()
    for _ in range(16):
        begin, length = (0, HEADER) if part == "header" else (ALIGN, PAYLOAD)
        at = second_record(folder) + begin + dice.randrange(length)
        flip(segment(folder), at, dice.randrange(8))
        with blocks.opened(folder, read_only=True) as store:
            assert there(store) == [True, False, True]
            assert there(store) == [True, False, True]
            (damage,) = store.damages
            assert damage.offset == second_record(folder)
        segment(folder).write_bytes(pristine)


def test_a_writer_takes_a_damaged_block_out_and_stores_it_again(folder):
    flip(segment(folder), second_record(folder) + ALIGN + 5)
    with blocks.opened(folder) as store:
        assert there(store) == [True, False, True]
        assert store.stats().blocks == 2
        blocks.put(store, blocks.block(1, tokens=10))
        assert there(store) == [True, True, True]
        assert store.verify() == []
    with blocks.opened(folder) as store:
        assert there(store) == [True, True, True]
        assert store.damages == []


@pytest.mark.parametrize("read_only", [True, False])
def test_verify_names_what_is_damaged_without_a_fetch(folder, read_only):
    flip(segment(folder), second_record(folder) + ALIGN + 5)
    with blocks.opened(folder, read_only=read_only) as store:
        (damage,) = store.verify()
        assert damage.key == blocks.key_of(store, blocks.block(1, tokens=10))
        assert "the payload does not fit" in str(damage)
        assert store.verify() == []  # known by now
        assert there(store) == [True, False, True]


@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.parametrize("cut", [1, ALIGN, 3 * ALIGN])
def test_a_file_that_was_cut_off_makes_a_miss_of_the_last_block(folder, read_only, cut):
    size = segment(folder).stat().st_size
    with segment(folder).open("r+b") as file:
        file.truncate(size - cut)
    with blocks.opened(folder, read_only=read_only) as store:
        assert there(store) == [True, True, False]
        assert len(store.damages) == 1
        if not read_only:
            blocks.put(store, blocks.block(2, tokens=10))
            assert there(store) == [True, True, True]


@pytest.mark.parametrize("read_only", [True, False])
def test_a_file_that_is_cut_off_while_it_is_mapped_makes_a_miss(folder, read_only):
    with blocks.opened(folder, read_only=read_only, memory_bytes=0) as store:
        assert there(store) == [True, True, True]
        with segment(folder).open("r+b") as file:
            file.truncate(second_record(folder))
        assert there(store) == [True, False, False]


@pytest.mark.parametrize("read_only", [True, False])
def test_a_file_that_is_missing_makes_misses(folder, read_only):
    segment(folder).unlink()
    with blocks.opened(folder, read_only=read_only) as store:
        assert there(store) == [False, False, False]
        assert len(store.damages) == 3


def damage_index(folder: Path, how: str) -> None:
    data = folder / "index.lmdb" / "data.mdb"
    content = data.read_bytes()
    if how == "missing":
        shutil.rmtree(folder / "index.lmdb")
    elif how == "empty":
        data.write_bytes(b"")
    elif how == "cut":
        data.write_bytes(content[: len(content) // 2])
    elif how == "zeros":
        data.write_bytes(content[:8192] + bytes(len(content) - 8192))
    else:
        data.write_bytes(b"what is this?" * 1000)


@pytest.mark.parametrize("how", ["missing", "empty", "cut", "zeros", "other"])
def test_a_damaged_index_is_refused_to_a_reader_and_made_anew_by_a_writer(folder, how):
    damage_index(folder, how)
    with pytest.raises(IndexDamagedError, match="gritlm store rebuild"):
        blocks.opened(folder, read_only=True)
    with blocks.opened(folder) as store:
        assert there(store) == [True, True, True]
        assert "rebuilt" in str(store.damages[0])
    with blocks.opened(folder) as store:
        assert there(store) == [True, True, True]
        assert store.damages == []


def test_bits_that_flip_in_the_index_lose_nothing(folder, tmp_path):
    dice = random.Random(3)
    data = Path("index.lmdb") / "data.mdb"
    size = (folder / data).stat().st_size
    for number in range(30):
        copy = tmp_path / f"copy{number}"
        shutil.copytree(folder, copy)
        # Every other one in the pages that say where all others are.
        at = dice.randrange(size) if number % 2 else 4096 * dice.randrange(2) + dice.randrange(152)
        flip(copy / data, at, dice.randrange(8))
        try:
            with blocks.opened(copy, read_only=True) as store:
                there(store)  # whatever it says, nothing is wrong
        except IndexDamagedError:
            pass
        with blocks.opened(copy) as store:
            assert there(store) == [True, True, True], at


def test_a_rebuilt_index_says_what_the_old_one_said(folder):
    with blocks.opened(folder) as store:
        keys = blocks.put(store, *(blocks.block(seed) for seed in range(10, 30)))
        store.gc()
        before = store.stats()
        assert store.rebuild() == 23
        after = store.stats()
        assert (after.blocks, after.tokens, after.live_bytes) == (
            before.blocks,
            before.tokens,
            before.live_bytes,
        )
        assert there(store) == [True, True, True]
        assert all(key in store for key in keys)
        assert store.verify() == []


def test_rebuilding_steps_over_what_is_damaged_and_says_so(folder):
    flip(segment(folder), second_record(folder) + ALIGN + 5)
    with blocks.opened(folder) as store:
        flip(segment(folder), 3)
        assert store.rebuild() == 1
        assert there(store) == [False, False, True]
        assert [damage.reason for damage in store.damages] == ["the payload does not fit"]


def test_a_reader_follows_an_index_that_was_made_anew(folder):
    with blocks.opened(folder) as store, blocks.opened(folder, read_only=True) as reader:
        assert there(reader) == [True, True, True]
        store.rebuild()
        (key,) = blocks.put(store, blocks.block(50))
        assert blocks.same(reader, key, blocks.block(50))
