"""KV blocks: moved, joined and continued, they equal one pass with a block mask."""

from __future__ import annotations

import pytest
import torch

from gritlm.errors import CacheMismatchError, InputError
from gritlm.lm.generator import prefix_cache
from gritlm.lm.kv.block import KVBlock
from gritlm.lm.unified import UnifiedLM
from tests import tiny

BOUND = 1e-4
# Families with rotary positions, plain and partial; Gemma 3 has two tables in one model.
ROTARY = ["llama", "smollm3", "cohere2", "mixtral", "qwen3", "gemma2", "gemma3", "phi", "gpt_neox"]


@pytest.fixture(scope="module")
def lm() -> UnifiedLM:
    return UnifiedLM(tiny.model("llama"))


def texts(*lengths: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(3, 400, (n,), generator=generator) for n in lengths]


@torch.inference_mode()
def blocks_of(lm: UnifiedLM, parts: list[torch.Tensor]) -> list[KVBlock]:
    return lm.hidden_and_blocks(torch.cat(parts), [len(p) for p in parts])[1]


@torch.inference_mode()
def block_masked_logits(
    lm: UnifiedLM, parts: list[torch.Tensor], tail: torch.Tensor
) -> torch.Tensor:
    """One pass over all: documents see themselves whole, the tail sees all before it."""
    ids = torch.cat([*parts, tail])
    size = len(ids)
    seen = torch.ones(size, size).tril().bool()
    start = 0
    for part in parts:
        seen[start : start + len(part), : start + len(part)] = False
        seen[start : start + len(part), start : start + len(part)] = True
        start += len(part)
    mask = torch.zeros(1, 1, size, size).masked_fill(~seen, torch.finfo(torch.float32).min)
    logits = lm.causal(
        ids[None], attention_mask=mask, position_ids=torch.arange(size)[None], use_cache=False
    ).logits
    return logits[:, -len(tail) :]


def test_layers_without_positions_are_found_by_trying(lm):
    """SmolLM3 and Cohere 2 leave rotary positions out of some layers."""
    mixed = UnifiedLM(tiny.model("smollm3", no_rope_layers=[1, 0, 1]))
    table = mixed.rope()
    assert table is not None
    assert (table.inv_freq_LF.abs().sum(dim=1) > 0).tolist() == [True, False, True]
    assert lm.rope().inv_freq_LF.abs().sum(dim=1).min() > 0


@pytest.mark.parametrize("family", ROTARY)
@pytest.mark.parametrize("lengths", [(17,), (9, 14), (5, 11, 3, 8, 6)])
def test_moved_blocks_equal_one_block_masked_pass(family, lengths):
    # A window that never cuts: the mask of this oracle is the same in every layer.
    window = {"sliding_window": 4096} if family in ("gemma2", "gemma3", "cohere2") else {}
    lm = UnifiedLM(tiny.model(family, **window))
    *parts, tail = texts(*lengths, 7)
    block = KVBlock.join(blocks_of(lm, parts))
    with torch.inference_mode():
        ours = lm.logits(tail[None], cache=prefix_cache(lm, block, room=len(tail)))
    assert (ours - block_masked_logits(lm, parts, tail)).abs().max() < BOUND


def test_blocks_one_behind_the_other_are_the_joined_block(lm):
    *parts, tail = texts(9, 14, 5, 7)
    blocks = [block[1:] if at else block for at, block in enumerate(blocks_of(lm, parts))]
    with torch.inference_mode():
        apart, joined = (
            lm.logits(tail[None], cache=prefix_cache(lm, kv, room=7))
            for kv in (blocks, KVBlock.join(blocks))
        )
    assert torch.equal(apart, joined)


def test_unmoved_blocks_would_be_wrong(lm):
    """The bound above means something: overlapping positions give other logits."""
    *parts, tail = texts(9, 14, 7)
    blocks = blocks_of(lm, parts)
    moved = KVBlock.join(blocks)
    kept = KVBlock(
        data=moved.data,
        token_ids=moved.token_ids,
        stored_T=moved.position_T,
        position_T=moved.position_T,
        causal=False,
        model=moved.model,
        rope=moved.rope,
    )
    with torch.inference_mode():
        ours = lm.logits(tail[None], cache=prefix_cache(lm, kept, room=7))
    assert (ours - block_masked_logits(lm, parts, tail)).abs().max() > 100 * BOUND


def test_a_block_moved_to_and_fro_is_bit_identical(lm):
    (block,) = blocks_of(lm, texts(12))
    half = block.to(dtype=torch.bfloat16)
    assert torch.equal(half.move(100).move(3).move(0).placed(), half.data)
    assert torch.equal(half.move(100).move(40).placed(), half.move(40).placed())


def test_a_moved_block_equals_keys_computed_there(lm):
    (part,) = texts(10)
    (block,) = blocks_of(lm, [part])
    cache = prefix_cache(lm, None, room=1)
    with torch.inference_mode():
        lm.causal.model.layers[0]  # the first layer's keys do not depend on attention
        lm.causal(part[None], position_ids=torch.arange(50, 60)[None], past_key_values=cache)
    there = cache.layers[0].keys[0, :, :10]
    assert (block.move(50).placed()[0, 0] - there).abs().max() < BOUND


def test_slices_keep_tokens_and_positions(lm):
    (block,) = blocks_of(lm, texts(12))
    part = block[1:]
    assert part.tokens == 11
    assert part.token_ids.tolist() == block.token_ids[1:].tolist()
    assert part.position_T.tolist() == list(range(1, 12))
    assert torch.equal(KVBlock.join([block[:5], block[5:]]).placed(), block.data)


def test_a_saved_block_comes_back_the_same(lm, tmp_path):
    one, other = blocks_of(lm, texts(8, 5))
    block = KVBlock.join([one, other[1:]])
    back = KVBlock.load(block.save(tmp_path / "block.safetensors"))
    assert torch.equal(back.placed(), block.placed())
    assert back.token_ids.tolist() == block.token_ids.tolist()
    assert (back.model, back.causal) == (block.model, block.causal)
    assert [p.name for p in tmp_path.iterdir()] == ["block.safetensors"]


def test_a_failed_save_leaves_the_old_file(lm, tmp_path, monkeypatch):
    path = tmp_path / "block.safetensors"
    one, other = blocks_of(lm, texts(8, 5))
    one.save(path)

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full_disk)
    with pytest.raises(OSError, match="No space"):
        other.save(path)
    assert KVBlock.load(path).tokens == 8
    assert [p.name for p in tmp_path.iterdir()] == ["block.safetensors"]


def test_a_truncated_file_is_refused(lm, tmp_path):
    path = blocks_of(lm, texts(8))[0].save(tmp_path / "block.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="cannot be read as a KV block"):
        KVBlock.load(path)
    with pytest.raises(InputError, match="cannot be read as a KV block"):
        KVBlock.load(tmp_path / "absent")


def test_blocks_of_another_model_are_refused(lm):
    other = UnifiedLM(tiny.model("llama", seed=5))
    (ours,), (theirs,) = (blocks_of(m, texts(6)) for m in (lm, other))
    with pytest.raises(CacheMismatchError, match="same weights"):
        KVBlock.join([ours, theirs])
    with pytest.raises(CacheMismatchError, match=ours.model):
        prefix_cache(other, ours, room=1)


def test_what_a_block_cannot_do_is_said(lm):
    (block,) = blocks_of(lm, texts(6))
    with pytest.raises(InputError, match=r"block\[1:\]"):
        block[0]
    with pytest.raises(InputError, match="before the start"):
        block.move(-1)
    with pytest.raises(InputError, match="no blocks"):
        KVBlock.join([])
    with pytest.raises(InputError, match="begins at 4"):
        block.move(4).fill(lm.new_cache(10))


def test_bfloat16_blocks_answer_within_rounding(lm):
    *parts, tail = texts(9, 14, 7)
    block = KVBlock.join([b.to(dtype=torch.bfloat16) for b in blocks_of(lm, parts)])
    with torch.inference_mode():
        ours = lm.logits(tail[None], cache=prefix_cache(lm, block, room=7))
    exact = block_masked_logits(lm, parts, tail)
    assert (ours - exact).abs().max() < 0.02 * exact.abs().max()
