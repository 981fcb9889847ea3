"""Blocks of images and sound in a store: negative token ids, and positions that tokens share."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gritlm import GritLM
from gritlm.errors import InputError
from gritlm.lm.kv.block import KVBlock
from gritlm.lm.media.senses import placeholder_ids
from gritlm.rag.identity import maker_of
from gritlm.rag.kvstore import codec, record
from gritlm.rag.kvstore.shared import shared_record
from gritlm.rag.kvstore.store import KVStore
from tests.lm.media.checkpoints import qwen2_vl, smolvlm
from tests.lm.media.conftest import image
from tests.rag.store import blocks

IDS = [5, *placeholder_ids({"pixels": torch.ones(3)}, "a tower", 3), 7]


def seen(*, end: int | None = None) -> KVBlock:
    return replace(blocks.block(1), token_ids=torch.tensor(IDS), end=end)


@pytest.mark.parametrize("end", [None, 3])
def test_a_block_of_an_image_comes_back_after_reopening(tmp_path, end):
    made = seen(end=end)
    with blocks.opened(tmp_path) as store:
        (key,) = blocks.put(store, made)
    with blocks.opened(tmp_path, read_only=True) as store:
        assert blocks.same(store, key, made)
        found = store.fetch(key).block
        assert found.token_ids.tolist() == IDS
        assert found.end == end
        assert not store.verify()


def test_the_index_of_a_store_with_images_can_be_rebuilt(tmp_path):
    with blocks.opened(tmp_path) as store:
        (key,) = blocks.put(store, seen(end=3))
        (text,) = blocks.put(store, blocks.block(2))
        assert store.rebuild() == 2
        assert store.fetch(key).block.end == 3
        assert blocks.same(store, text, blocks.block(2))


def test_only_a_block_with_an_image_has_the_new_version():
    def header(ids, end=None):
        raw_LB = torch.zeros(3, 480, dtype=torch.uint8)
        made = record.describe(
            b"k" * 32,
            raw_LB,
            shape=(3, 2, 5, 12),
            dtype="float32",
            storage="float32",
            causal=True,
            token_ids=ids,
        )
        return made if end is None else made.ending_at(end)

    assert header(range(5)).version == record.VERSION
    for made in (header(IDS), header(IDS, 3)):
        assert made.version == record.MEDIA_VERSION
        packed = record.pack(made)
        read = record.unpack(packed[: record.length(packed)])
        assert read.token_ids.tolist() == IDS
        assert read.end == made.end


def test_two_images_have_two_keys_and_a_wrong_one_is_refused(tmp_path):
    other = [5, *placeholder_ids({"pixels": torch.zeros(3)}, "a tower", 3), 7]
    with blocks.opened(tmp_path) as store:
        assert store.key(IDS, causal=False) != store.key(other, causal=False)
        with pytest.raises(InputError, match="is not the name of this block"):
            store.put(store.key(other, causal=False), seen())


def test_a_block_of_an_image_is_the_same_object_in_shared_storage():
    maker, made = blocks.maker(), seen(end=3)
    key = record.block_key(maker, IDS, causal=False, storage="float32")
    header, payload = codec.to_record(key, made, maker=maker, storage="float32")
    content = shared_record.pack(header, payload)
    read, raw_LB = shared_record.unpack(content, key, maker, "float32")
    found = codec.from_record(read, raw_LB, maker)
    assert torch.equal(found.data, made.data)
    assert (found.token_ids.tolist(), found.end) == (IDS, 3)


@pytest.mark.parametrize("family", [smolvlm, qwen2_vl])
def test_a_stored_block_answers_as_the_one_of_the_model(tmp_path, family):
    model = GritLM(family(tmp_path / "model"), dtype="float32", device="cpu")
    _, (block,) = model.encode([{"image": image()}], get_cache=True)
    with KVStore.open(tmp_path / "kv", maker_of(model), dtype=model.dtype) as store:
        key = store.key(block.token_ids.tolist(), causal=block.causal)
        assert store.put(key, block)
    with KVStore.open(tmp_path / "kv", maker_of(model), read_only=True) as store:
        found = store.fetch(key).block
    assert found.end == block.end
    assert (found.end is not None) == (family is qwen2_vl)
    answers = [model.chat("What is it?", kv=each, max_new_tokens=8) for each in (block, found)]
    assert answers[0] == answers[1]


def test_the_towers_belong_to_the_identity_of_a_model(tmp_path):
    model = GritLM(smolvlm(tmp_path), dtype="float32", device="cpu")
    before = maker_of(model)
    with torch.no_grad():
        next(model.senses.module.parameters()).add_(1)
    after = maker_of(model)
    assert before.model == after.model
    assert before.digest != after.digest
