"""Bytes on the disk stay under the budget; what is worth most stays."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gritlm.rag.kvstore import eviction
from gritlm.rag.kvstore.record import IndexEntry
from tests.rag.store import blocks

RECORD = 8192  # bytes that a small block takes: a page of header, a page of payload
BUDGET = 40 * RECORD


def entry(**changes: object) -> IndexEntry:
    return replace(
        IndexEntry(1, 0, 200, 4000, 100, 0, eviction.recompute_cost(100), 0.0, 0.0), **changes
    )


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "store"


def test_worth_grows_with_hits_and_cost_and_falls_with_bytes():
    assert eviction.worth(entry(hits=3)) == pytest.approx(4 * eviction.worth(entry()))
    assert eviction.worth(entry(cost=2.0)) == pytest.approx(2 * eviction.worth(entry(cost=1.0)))
    assert eviction.worth(entry(payload=12000)) == pytest.approx(eviction.worth(entry()) / 2)
    assert eviction.recompute_cost(2000) > 2 * eviction.recompute_cost(1000)


def test_the_cheapest_go_first_and_of_the_same_worth_the_oldest():
    entries = {b"a": entry(offset=2), b"b": entry(hits=1), b"c": entry(offset=1)}
    chosen = eviction.cheapest(entries.items(), 2 * RECORD)
    assert [key for key, _ in chosen] == [b"c", b"a"]
    assert eviction.cheapest(entries.items(), 1, below=0.0) == []


def test_a_newcomer_takes_the_place_of_what_was_never_asked_for(folder):
    with blocks.opened(folder, disk_bytes=BUDGET) as store:
        for seed in range(70):
            blocks.put(store, blocks.block(seed))
            assert store.nbytes <= BUDGET
        stats = store.stats()
        assert stats.evicted == 70 - stats.blocks
        assert stats.blocks > 30
        assert blocks.key_of(store, blocks.block(69)) in store
        assert blocks.key_of(store, blocks.block(0)) not in store


def test_what_is_asked_for_stays(folder):
    with blocks.opened(folder, disk_bytes=BUDGET) as store:
        loved = blocks.put(store, *map(blocks.block, range(5)))
        for seed in range(5, 100):
            blocks.put(store, blocks.block(seed))
            for key in loved:
                assert store.fetch(key) is not None


def test_a_newcomer_does_not_push_out_what_is_worth_more_at_first(folder):
    with blocks.opened(folder, disk_bytes=BUDGET) as store:
        seeds = iter(range(1000))
        old = []
        while store.nbytes + RECORD <= store._writer.capacity:
            old += blocks.put(store, blocks.block(next(seeds)))
        for key in old:
            store.fetch(key)
        made = blocks.block(next(seeds))
        assert not store.put(blocks.key_of(store, made), made)
        assert all(key in store for key in old)
        assert store.stats().refused == 1
        # Old favourites that nobody asks for any more give way in the end.
        admitted = [
            store.put(blocks.key_of(store, made), made)
            for made in (blocks.block(next(seeds)) for _ in range(3 * len(old)))
        ]
        assert not any(admitted[: len(old) // 2])
        assert any(admitted)


def test_a_block_that_is_larger_than_the_budget_is_not_admitted(folder):
    with blocks.opened(folder, disk_bytes=BUDGET) as store:
        keys = blocks.put(store, blocks.block(1))
        large = blocks.block(2, tokens=2000)
        assert not store.put(blocks.key_of(store, large), large)
        assert keys[0] in store


def test_evicting_frees_what_was_asked_for(folder):
    with blocks.opened(folder) as store:
        keys = blocks.put(store, *map(blocks.block, range(10)))
        for key in keys[:5]:
            store.fetch(key)
        assert store.evict(3 * RECORD - 1) == 3 * RECORD
        assert [key in store for key in keys] == 5 * [True] + 3 * [False] + 2 * [True]
        assert store.evict(10**9) == 7 * RECORD
        assert store.stats().blocks == 0


def test_a_store_shrinks_to_a_smaller_budget_when_it_is_opened(folder):
    with blocks.opened(folder) as store:
        keys = blocks.put(store, *map(blocks.block, range(60)))
        for key in keys[:5]:
            store.fetch(key)
    with blocks.opened(folder, disk_bytes=20 * RECORD) as store:
        assert store.nbytes <= 20 * RECORD
        assert store.verify() == []
        assert all(blocks.same(store, keys[seed], blocks.block(seed)) for seed in range(5))


def test_a_store_keeps_its_budget_until_another_is_given(folder):
    for given, kept in [(BUDGET, BUDGET), (None, BUDGET), (BUDGET * 2, BUDGET * 2)]:
        with blocks.opened(folder, disk_bytes=given) as store:
            assert store.stats().disk_bytes == store._writer.disk_bytes == kept
    with blocks.opened(folder, read_only=True) as reader:
        assert reader.stats().disk_bytes == BUDGET * 2


class Mirror:
    """A store, random verbs on it, and a dict of what must be there."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.dice = random.Random(seed)
        self.budget = self.dice.choice([BUDGET, 3 * BUDGET, 40 * BUDGET])
        self.must: dict[bytes, torch.Tensor] = {}
        self.open()

    def open(self) -> None:
        self.store = blocks.opened(self.folder, disk_bytes=self.budget, memory_bytes=20_000)
        self.evicted = 0

    def put(self) -> None:
        made = blocks.block(self.dice.randrange(200), tokens=self.dice.choice([1, 5, 30, 90]))
        key = blocks.key_of(self.store, made)
        if self.store.put(key, made):
            self.must[key] = made.data

    def put_many(self) -> None:
        if self.store.stats().live_bytes + 5 * RECORD < self.store._writer.capacity:
            made = [blocks.block(self.dice.randrange(200), tokens=7) for _ in range(5)]
            keys = blocks.put(self.store, *made)
            self.must |= {key: one.data for key, one in zip(keys, made, strict=True)}

    def fetch(self) -> None:
        if self.must:
            key = self.dice.choice(list(self.must))
            assert torch.equal(self.store.fetch(key).block.data, self.must[key])

    def delete(self) -> None:
        if self.must:
            key = self.dice.choice(list(self.must))
            assert self.store.delete([key]) == 1
            del self.must[key]

    def evict(self) -> None:
        self.store.evict(self.dice.randrange(4 * RECORD))

    def gc(self) -> None:
        self.store.gc()
        assert self.store.stats().dead_bytes == 0

    def gc_between(self) -> None:
        verbs = [self.put, self.fetch, self.delete, self.evict, self.gc]
        self.store.gc(checkpoint=lambda: self.do(verbs))

    def reopen(self) -> None:
        self.store.close()
        self.open()

    def step(self) -> None:
        often, rare = [self.put] * 8 + [self.fetch] * 6, [self.delete, self.evict, self.gc]
        self.do([*often, *rare, self.gc_between, self.put_many, self.reopen])

    def do(self, verbs: Sequence[Callable[[], None]]) -> None:
        self.dice.choice(verbs)()
        gone = [key for key in self.must if key not in self.store]
        for key in gone:
            del self.must[key]
        stats = self.store.stats()
        assert len(gone) == stats.evicted - self.evicted  # and nothing else went
        self.evicted = stats.evicted
        assert self.store.nbytes <= self.budget
        assert stats.blocks == len(self.must)
        assert stats.memory_used <= 20_000


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_done_nothing_is_lost_and_the_budget_holds(folder, seed):
    mirror = Mirror(folder, seed)
    for _ in range(160):
        mirror.step()
    assert mirror.store.verify() == []
    for key, data in mirror.must.items():
        assert torch.equal(mirror.store.fetch(key).block.data, data)
    mirror.store.close()


def test_evicting_while_others_put_takes_nothing_that_is_acknowledged(folder):
    with blocks.opened(folder, disk_bytes=BUDGET) as store:
        made = [blocks.block(seed) for seed in range(3)]

        def evicting():
            for number, block in enumerate(made):
                if number == 2:
                    store.evict(0)
                yield blocks.key_of(store, block), block

        assert store.put_many(evicting()) == 3
        assert all(store.fetch(blocks.key_of(store, block)) is not None for block in made)
