"""Blocks that several stores exchange through shared storage."""

from __future__ import annotations

import logging

import pytest
import torch

from gritlm.rag.kvstore.shared import shared_record, shared_tier
from gritlm.rag.kvstore.shared.shared_blocks import SharedBlocks
from tests.rag.shared.objects import MemoryObjects
from tests.rag.store import blocks


@pytest.fixture
def objects():
    return MemoryObjects()


@pytest.fixture
def opened(tmp_path, objects):
    """A function that opens a store with the shared tier."""
    stores = []

    def open_store(name, *, always=True, attached=True, **options):
        store = blocks.opened(tmp_path / name, **options)
        if attached:
            store.attach(SharedBlocks(objects, always))
        stores.append(store)
        return store

    yield open_store
    for store in stores:
        store.close()


def warnings(caplog):
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


@pytest.mark.parametrize("storage", ["float32", "int8"])
def test_a_block_of_one_store_is_a_hit_in_another(opened, objects, storage):
    made = blocks.block(1, tokens=40)
    (key,) = blocks.put(opened("one", storage=storage), made)
    assert len(objects.blocks()) == 1
    other = opened("two", storage=storage)
    assert key not in other
    first, second = other.fetch(key), other.fetch(key)
    assert (first.tier, second.tier) == ("shared", "disk")
    assert torch.equal(first.block.data, second.block.data)
    assert torch.allclose(first.block.data, made.data, atol=0.05)
    assert torch.equal(first.block.token_ids, made.token_ids)
    assert other.stats().from_shared == 1


def test_a_reader_keeps_a_fetched_block_in_memory_alone(opened):
    made = blocks.block(1)
    (key,) = blocks.put(opened("one"), made)
    opened("two").close()
    reader = opened("two", read_only=True)
    assert [reader.fetch(key).tier for _ in range(3)] == ["shared", "memory", "memory"]
    assert torch.equal(reader.fetch(key).block.data, made.data)
    assert reader.stats().blocks == 0


def test_blocks_of_another_model_are_other_objects(opened, objects):
    blocks.put(opened("one"), blocks.block(1))
    assert not shared_record.is_manifest(
        objects.content[shared_record.manifest_name(blocks.maker())], blocks.maker("another")
    )
    assert shared_record.folder_of(blocks.maker()) != shared_record.folder_of(
        blocks.maker("another")
    )


def flip(content: bytes) -> bytes:
    return content[:-40] + bytes([content[-40] ^ 1]) + content[-39:]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content, other: content[:-1],
        lambda content, other: content[:100],
        lambda content, other: b"",
        lambda content, other: content + b"\0",
        lambda content, other: flip(content),
        lambda content, other: content[:50] + b"\7" + content[51:],
        lambda content, other: b"<html>no such page</html>",
        lambda content, other: other,
    ],
    ids=["cut", "header-cut", "empty", "longer", "flipped", "header", "foreign", "other-block"],
)
def test_a_broken_object_is_not_used_and_replaced(opened, objects, caplog, damage):
    made, other = blocks.block(1), blocks.block(2)
    one = opened("one")
    keys = blocks.put(one, made, other)
    names = [shared_record.object_name(blocks.maker(), key) for key in keys]
    whole = objects.content[names[0]]
    objects.content[names[0]] = damage(whole, objects.content[names[1]])
    two = opened("two")
    assert two.fetch(keys[0]) is None
    assert [keys[0].hex()[:16] in each for each in warnings(caplog)] == [True]
    assert two.fetch(keys[1]).tier == "shared"
    assert blocks.put(two, made) == [keys[0]]
    assert objects.content[names[0]] == whole


def test_an_object_of_another_model_under_a_right_name_is_not_used(opened, objects):
    made = blocks.block(1)
    (key,) = blocks.put(opened("one"), made)
    mine = objects.content[shared_record.object_name(blocks.maker(), key)]
    header = shared_record.record.unpack(mine[: shared_record.record.length(mine)])
    with pytest.raises(shared_record.DamagedRecordError, match="another model"):
        shared_record.unpack(mine, key, blocks.maker("another"), "float32")
    with pytest.raises(shared_record.DamagedRecordError, match="another block"):
        shared_record.unpack(mine, key, blocks.maker(), "int8")
    assert shared_record.unpack(mine, key, blocks.maker(), "float32")[0].key == header.key


def test_a_manifest_of_another_model_switches_the_tier_off(opened, objects, caplog):
    (key,) = blocks.put(opened("one"), blocks.block(1))
    name = shared_record.manifest_name(blocks.maker())
    objects.content[name] = shared_record.manifest(blocks.maker("another"))
    two = opened("two")
    assert two.fetch(key) is None
    assert blocks.put(two, blocks.block(2))
    assert len(objects.blocks()) == 1
    assert [name in each and "names another model" in each for each in warnings(caplog)] == [True]


def test_storage_that_is_away_warns_once_and_is_left_alone(opened, objects, caplog, monkeypatch):
    made = [blocks.block(seed) for seed in range(6)]
    keys = blocks.put(opened("one"), *made[:3])
    objects.away = True
    two = opened("two")
    assert [two.fetch(key) for key in keys] == [None, None, None]
    asked = objects.requests
    assert len(blocks.put(two, *made[3:])) == 3
    assert two.fetch(keys[0]) is None
    assert objects.requests == asked
    assert ["the network is away" in each for each in warnings(caplog)] == [True]
    objects.away = False
    monkeypatch.setattr(shared_tier, "monotonic", lambda: 1e9)
    assert two.fetch(keys[0]).tier == "shared"


def test_a_reader_of_storage_without_blocks_names_the_model(opened, caplog):
    opened("one", attached=False).close()
    assert opened("one", read_only=True).fetch(b"k" * 32) is None
    assert warnings(caplog) == ["s3://bucket/blocks holds no blocks of models/a tiny model"]


def test_a_delete_reaches_every_tier_and_not_the_disks_of_others(opened, objects):
    """A block may belong to equal passages of several workspaces; the delete of one is enough."""
    made = blocks.block(1)
    one, two, three = opened("one"), opened("two"), opened("three")
    (key,) = blocks.put(one, made)
    assert two.fetch(key).tier == "shared"
    assert one.delete([key]) == 1
    assert (one.fetch(key), objects.blocks()) == (None, [])
    assert two.fetch(key).tier == "disk"  # a document of its own holds an equal passage
    assert three.fetch(key) is None
    assert blocks.put(three, made) == [key]  # it computed the block again
    assert one.fetch(key).tier == "shared"


def test_a_delete_while_storage_is_away_is_carried_out_later(opened, objects, caplog):
    one = opened("one")
    keys = blocks.put(one, *map(blocks.block, range(3)))
    objects.away = True
    one.delete(keys[:2])
    assert any("2 deleted blocks are still in the shared storage" in w for w in warnings(caplog))
    assert len(objects.blocks()) == 3
    one.close()
    objects.away = False
    again = opened("one")
    assert len(objects.blocks()) == 1
    assert [again.fetch(key) is None for key in keys] == [True, True, False]
    caplog.clear()
    again.delete(keys)
    assert (objects.blocks(), warnings(caplog)) == ([], [])


def test_a_delete_without_the_tier_names_its_address_and_is_carried_out_later(
    opened, objects, caplog
):
    one = opened("one")
    keys = blocks.put(one, *map(blocks.block, range(2)))
    one.close()
    alone = opened("one", attached=False)
    alone.delete(keys[:1])
    assert ["s3://bucket/blocks" in each for each in warnings(caplog)] == [True]
    alone.close()
    opened("one")
    assert len(objects.blocks()) == 1


def test_a_torn_line_of_the_journal_is_ignored(opened, objects, tmp_path):
    one = opened("one")
    keys = blocks.put(one, *map(blocks.block, range(3)))
    one.close()
    (journal,) = (tmp_path / "one" / "shared").glob("*.txt")
    journal.write_text(f"{objects.url}\n{keys[0].hex()}\n{keys[1].hex()[:20]}", encoding="utf-8")
    alone = opened("one", attached=False)
    alone.delete(keys[2:])
    alone.close()
    opened("one")
    assert objects.blocks() == [shared_record.object_name(blocks.maker(), keys[1])]


def test_a_block_that_exceeds_the_disk_budget_goes_to_the_shared_tier(opened, objects):
    one = opened("one", disk_bytes=65536)
    large = blocks.block(1, tokens=300)
    assert not one.put(blocks.key_of(one, large), large)
    one.close()
    assert len(objects.blocks()) == 1


def test_a_block_that_is_there_is_not_written_again(opened, objects, monkeypatch):
    blocks.put(opened("one"), blocks.block(1))
    monkeypatch.setattr(objects, "write", lambda *_: pytest.fail("written again"))
    assert blocks.put(opened("two"), blocks.block(1))


def test_blocks_that_are_slower_to_fetch_than_to_compute_are_computed(opened, objects):
    made = [blocks.block(seed, tokens=30) for seed in range(4)]
    keys = blocks.put(opened("one"), *made)
    objects.seconds = 0.05
    two = opened("two", always=False)
    for _ in range(20):
        two.measure_prefill(30, 0.001)
    assert two.fetch(keys[0], tokens=30).tier == "shared"  # the first one is measured
    assert two.fetch(keys[1], tokens=30) is None
    assert two.fetch(keys[1]).tier == "shared"  # at any cost
    before = len(objects.blocks())
    blocks.put(two, blocks.block(9, tokens=30))
    assert len(objects.blocks()) == before  # no other store would fetch it
    for _ in range(20):
        two.measure_prefill(30, 1.0)
    assert two.fetch(keys[2], tokens=30).tier == "shared"
