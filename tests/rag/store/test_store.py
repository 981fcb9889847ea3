"""Put, fetch, and what is refused."""

from __future__ import annotations

import json
import threading

import pytest
import torch

from gritlm.errors import CacheMismatchError, InputError
from gritlm.rag.kvstore.store import KVStore
from tests.rag.store import blocks


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "store"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("causal", [True, False])
def test_a_block_comes_back_as_it_was_put(folder, dtype, causal):
    made = blocks.block(1, causal=causal, dtype=dtype)
    with blocks.opened(folder, dtype=dtype) as store:
        (key,) = blocks.put(store, made)
        assert blocks.same(store, key, made)
    with blocks.opened(folder, dtype=dtype) as store:
        found = store.fetch(key)
        assert blocks.same(store, key, made)
    assert found.block.dtype == dtype
    assert found.block.model == blocks.MODEL
    assert torch.equal(found.block.rope.inv_freq_LF, blocks.maker().rope.inv_freq_LF)
    assert found.block.position_T.tolist() == found.block.stored_T.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("storage", "off"), [("int8", 0.03), ("int4", 0.3), ("bfloat16", 0.03)])
def test_a_block_comes_back_about_as_it_was_put(folder, storage, off):
    made = blocks.block(1, tokens=40)
    with blocks.opened(folder, storage=storage) as store:
        (key,) = blocks.put(store, made)
        back = store.fetch(key).block.data
    assert 0 < (back - made.data).abs().max() < off


def test_a_layer_of_a_fetched_block_lies_in_one_piece_where_the_file_is_mapped(folder):
    made = blocks.block(1)
    with blocks.opened(folder) as store:
        (key,) = blocks.put(store, made)
        one, other = store.fetch(key).block.data, None
        with blocks.opened(folder, read_only=True, memory_bytes=0) as reader:
            other = [reader.fetch(key).block.data.data_ptr() for _ in range(3)]
    assert all(layer.is_contiguous() for layer in one)
    assert len(set(other)) == 1  # the same place each time: nothing was copied


def test_what_is_fetched_stays_whole_when_the_store_is_closed_and_the_file_is_gone(folder):
    made = blocks.block(1)
    with blocks.opened(folder) as store:
        (key,) = blocks.put(store, made)
        found = store.fetch(key)
        store.delete([key])
        store.gc()
    assert torch.equal(found.block.data, made.data)


def test_writing_to_what_was_fetched_does_not_reach_the_file(folder):
    made = blocks.block(1)
    with blocks.opened(folder) as store:
        (key,) = blocks.put(store, made)
        store.fetch(key).block.data.zero_()
        assert store.verify() == []
    with blocks.opened(folder) as store:
        assert blocks.same(store, key, made)


def test_many_are_put_with_one_commit(folder):
    with blocks.opened(folder) as store:
        before = store._writer.transactions.state.commit
        blocks.put(store, *map(blocks.block, range(20)))
        assert store._writer.transactions.state.commit == before + 1
        assert store.stats().blocks == 20


def test_when_putting_many_ends_with_an_error_what_came_before_is_stored(folder):
    def items(store):
        for seed in range(3):
            made = blocks.block(seed)
            yield blocks.key_of(store, made), made
        raise RuntimeError("no more")

    with blocks.opened(folder) as store, pytest.raises(RuntimeError, match="no more"):
        store.put_many(items(store))
    with blocks.opened(folder) as store:
        assert store.stats().blocks == 3


def test_putting_twice_writes_once(folder):
    with blocks.opened(folder) as store:
        blocks.put(store, blocks.block(1))
        before = store.nbytes
        blocks.put(store, blocks.block(1), blocks.block(1))
        assert store.nbytes == before


def test_the_same_ids_read_in_the_other_way_are_another_block(folder):
    one, other = blocks.block(1, causal=True), blocks.block(1, causal=False)
    with blocks.opened(folder) as store:
        keys = blocks.put(store, one, other)
        assert store.stats().blocks == 2
        assert [store.fetch(key).block.causal for key in keys] == [True, False]


def test_what_is_not_stored_is_a_miss(folder):
    with blocks.opened(folder) as store:
        key = blocks.key_of(store, blocks.block(1))
        assert store.fetch(key) is None
        assert key not in store
        assert store.delete([key]) == 0
        assert store.evict(1000) == store.gc() == store.nbytes == 0
        assert store.verify() == []
        assert store.stats().missed == 1


def test_a_deleted_block_stays_deleted(folder):
    with blocks.opened(folder) as store:
        keys = blocks.put(store, *map(blocks.block, range(4)))
        assert store.delete([keys[3], keys[1]]) == 2
    with blocks.opened(folder) as store:
        assert [key in store for key in keys] == [True, False, True, False]
        assert store.gc() > 0
        assert store.stats().dead_bytes == 0


def test_a_block_that_is_deleted_while_it_is_put_is_gone(folder):
    made = [blocks.block(1), blocks.block(2)]
    with blocks.opened(folder) as store:
        keys = [blocks.key_of(store, one) for one in made]

        def deleting_the_first():
            yield keys[0], made[0]
            assert store.delete(keys[:1]) == 1
            yield keys[1], made[1]

        store.put_many(deleting_the_first())
        assert [key in store for key in keys] == [False, True]
    with blocks.opened(folder) as store:
        assert [key in store for key in keys] == [False, True]
        assert store.verify() == []


def test_bytes_are_counted_when_no_other_thread_is_at_work(folder):
    counted = []
    with blocks.opened(folder) as store:
        blocks.put(store, blocks.block(1))
        counting = threading.Thread(target=lambda: counted.append(store.nbytes))
        with store._mutex:
            counting.start()
            counting.join(0.05)
            assert counted == []
        counting.join()
    assert counted == [8192]


@pytest.fixture
def wasteful(folder):
    """Three segments of two records; the first of each is deleted. Its keys come with it."""
    with blocks.opened(folder, disk_bytes=40 * 8192) as store:
        keys = blocks.put(store, *map(blocks.block, range(6)))
        store.delete(keys[::2])
        assert store.stats().segments == 3
        yield store, keys


def test_other_threads_are_let_in_between_the_segments_that_gc_compacts(wasteful):
    store, keys = wasteful
    found = []

    def checkpoint() -> None:
        fetching = threading.Thread(target=lambda: found.append(store.fetch(keys[5])), daemon=True)
        fetching.start()
        fetching.join(5)

    assert store.gc(checkpoint=checkpoint) == 3 * 8192
    assert len(found) == 2
    assert None not in found
    assert store.stats().dead_bytes == 0


def test_gc_loses_nothing_that_another_thread_is_putting(wasteful):
    store, keys = wasteful
    made = blocks.block(9)
    appended, go_on = threading.Event(), threading.Event()

    def slowly():
        yield blocks.key_of(store, made), made
        appended.set()
        go_on.wait(5)

    putting = threading.Thread(target=lambda: store.put_many(slowly()), daemon=True)

    def checkpoint() -> None:
        putting.start()
        appended.wait(5)

    store.delete(keys[:2])  # leaves two segments
    store._writer.segments.segment_bytes += (
        2 * 8192
    )  # what moves and the newcomer fit into the last
    store.gc(checkpoint=checkpoint)
    go_on.set()
    putting.join()
    assert blocks.same(store, blocks.key_of(store, made), made)
    assert all(blocks.same(store, keys[seed], blocks.block(seed)) for seed in (3, 5))


def test_gc_goes_on_when_a_segment_is_gone_meanwhile(wasteful):
    store, keys = wasteful
    assert store.gc(checkpoint=lambda: store.delete(keys)) == 8192
    assert store.stats().blocks == 0


def test_uses_are_counted_and_kept(folder):
    with blocks.opened(folder) as store:
        (key,) = blocks.put(store, blocks.block(1))
        for _ in range(3):
            store.fetch(key)
    with blocks.opened(folder) as store:
        assert store.stats().hits == 3


def test_a_view_is_kept_in_memory_when_it_is_asked_for_twice(folder):
    made = blocks.block(1)
    with blocks.opened(folder) as store:
        (key,) = blocks.put(store, made)
        found = [store.fetch(key) for _ in range(4)]
        assert [one.tier for one in found] == ["disk", "disk", "memory", "memory"]
        assert all(torch.equal(one.block.data, made.data) for one in found)
        stats = store.stats()
    assert (stats.from_disk, stats.from_memory) == (2, 2)
    assert stats.memory_used == made.nbytes


def test_what_was_deleted_is_as_if_it_had_never_been_asked_for(folder):
    made = blocks.block(1)
    with blocks.opened(folder) as store:
        (key,) = blocks.put(store, made)
        store.fetch(key)
        store.delete([key])
        blocks.put(store, made)
        assert [store.fetch(key).tier for _ in range(3)] == ["disk", "disk", "memory"]


def test_only_the_last_keys_that_were_asked_for_are_remembered(folder, monkeypatch):
    monkeypatch.setattr("gritlm.rag.kvstore.reads._REQUESTED", 2)
    with blocks.opened(folder) as store:
        keys = blocks.put(store, *map(blocks.block, range(3)))
        for key in [*keys, keys[0], keys[0]]:
            assert store.fetch(key).tier == "disk"
        assert store.fetch(keys[0]).tier == "memory"


def test_what_was_quantised_is_decoded_once(folder):
    with blocks.opened(folder, storage="int8") as store:
        (key,) = blocks.put(store, blocks.block(1, tokens=40))
        first, second = store.fetch(key), store.fetch(key)
    assert (first.tier, second.tier) == ("disk", "memory")
    assert first.nbytes < second.nbytes / 2
    assert first.block is second.block


def test_memory_holds_no_more_than_it_may_and_lets_go_of_the_oldest(folder):
    made = [blocks.block(seed) for seed in range(4)]
    with blocks.opened(folder, storage="int8", memory_bytes=2 * made[0].nbytes) as store:
        keys = blocks.put(store, *made)
        for key in keys[:3]:
            store.fetch(key)
        tiers = [store.fetch(keys[number]).tier for number in (2, 1, 0)]
        assert tiers == ["memory", "memory", "disk"]
        assert store.stats().memory_used == 2 * made[0].nbytes


def test_a_deleted_block_is_not_answered_from_memory(folder):
    with blocks.opened(folder, storage="int8") as store:
        (key,) = blocks.put(store, blocks.block(1))
        store.fetch(key)
        store.delete([key])
        assert store.fetch(key) is None
        assert store.stats().memory_used == 0


def test_a_block_that_was_moved_or_cut_is_refused(folder):
    made = blocks.block(1)
    with blocks.opened(folder) as store:
        keys = blocks.put(store, made)
        placed = store.fetch(keys[0]).block
        store.delete(keys)
        for other in (placed.move(3), placed[1:], placed[:0]):
            with pytest.raises(InputError, match="as it was read"):
                store.put(blocks.key_of(store, other), other)


def test_a_block_under_the_name_of_another_is_refused(folder):
    with blocks.opened(folder) as store:
        with pytest.raises(InputError, match="not the name of this block"):
            store.put(blocks.key_of(store, blocks.block(2)), blocks.block(1))
        assert store.stats().blocks == 0


def test_a_block_of_another_model_is_refused(folder):
    other = blocks.block(1, model="another")
    with blocks.opened(folder) as store, pytest.raises(CacheMismatchError, match="another"):
        store.put(blocks.key_of(store, other), other)


@pytest.mark.parametrize("change", [{"model": "another"}, {"digest": "d2"}])
def test_a_store_of_another_model_is_refused_with_both_names(folder, change):
    blocks.opened(folder).close()
    other = blocks.maker(**change)
    with pytest.raises(InputError, match=r"made by models/a tiny model .* came is models/"):
        KVStore.open(folder, other, dtype=torch.float32)
    blocks.opened(folder).close()  # the lock was given back


def test_a_store_of_another_version_is_refused(folder):
    blocks.opened(folder).close()
    about = json.loads((folder / "store.json").read_text())
    (folder / "store.json").write_text(json.dumps(about | {"version": 99}))
    with pytest.raises(InputError, match="version 99"):
        blocks.opened(folder)


def test_a_store_keeps_its_number_format(folder):
    blocks.opened(folder, storage="int8").close()
    with blocks.opened(folder) as store:
        assert store.storage == "int8"
    with pytest.raises(InputError, match="keeps its blocks as int8"):
        blocks.opened(folder, storage="bfloat16")


def test_the_format_of_a_new_store_follows_the_model(folder):
    with blocks.opened(folder, dtype=torch.bfloat16) as store:
        assert store.storage == "bfloat16"


def test_a_store_that_was_closed_does_nothing_more(folder):
    store = blocks.opened(folder)
    (key,) = blocks.put(store, blocks.block(1))
    store.close()
    store.close()
    for verb in (
        lambda: store.fetch(key),
        lambda: key in store,
        lambda: store.put_many([]),
        store.stats,
        store.verify,
        store.gc,
    ):
        with pytest.raises(InputError, match="was closed"):
            verb()


def test_a_new_store_without_a_format_is_refused(folder):
    with pytest.raises(InputError, match="storage='auto'"):
        KVStore.open(folder, blocks.maker())
    with pytest.raises(InputError, match="storage='int3' is unknown"):
        KVStore.open(folder, blocks.maker(), storage="int3")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"version": 1}'])
def test_a_store_that_does_not_say_what_it_is_is_refused(folder, text):
    blocks.opened(folder).close()
    (folder / "store.json").write_text(text)
    with pytest.raises(InputError, match="cannot be read"):
        blocks.opened(folder)


def test_arenas_without_their_description_are_refused(folder):
    with blocks.opened(folder) as store:
        blocks.put(store, blocks.block(1))
    (folder / "store.json").unlink()
    with pytest.raises(InputError, match=r"store\.json is missing"):
        blocks.opened(folder)


def test_reading_where_there_is_no_store_is_refused_and_makes_none(folder):
    with pytest.raises(InputError, match="holds no store"):
        blocks.opened(folder, read_only=True)
    with pytest.raises(InputError, match="holds no store"):
        KVStore.open(folder, None)
    assert not folder.exists()


def test_a_store_can_be_looked_after_without_its_model(folder):
    with blocks.opened(folder) as store:
        keys = blocks.put(store, blocks.block(1), blocks.block(2))
    with KVStore.open(folder, None) as store:
        assert store.verify() == []
        assert store.delete(keys[:1]) == 1
        assert store.gc() > 0
        assert store.stats().blocks == 1
        with pytest.raises(InputError, match="without its model"):
            store.fetch(keys[1])


@pytest.mark.parametrize("options", [{"disk_bytes": 1000}, {"memory_bytes": -1}])
def test_a_budget_that_holds_nothing_is_refused(folder, options):
    with pytest.raises(InputError, match="expected"):
        blocks.opened(folder, **options)
