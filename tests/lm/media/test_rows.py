"""Rows of a batch that begin with images: each goes on at the position after its own image."""

from __future__ import annotations

import pytest
import torch

from gritlm.lm.generator import prefill, prefix_cache
from gritlm.lm.kv.row_batch import RowBatch
from tests.lm.media.conftest import image

BOUND = 1e-4
QUESTION = [20, 21, 22, 23]
NEXT = [30, 31]


@pytest.mark.parametrize("family", ["idefics3", "qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_rows_with_images_are_the_rows_alone(cases, family):
    model = cases(family).grit
    inputs = [{"image": image(1)}, {"image": image(2, (60, 40)), "text": "a cat"}, "a dog"]
    _, blocks = model.encode(inputs, get_cache=True)
    given = [*blocks, None]
    batch = RowBatch(model.lm, given, room=8)
    logits_BV = batch.prefill(QUESTION)[:, -1]
    then_BV = batch.prefill_rows([NEXT, NEXT[:1], NEXT, []])[:, -1]
    for row, block in enumerate(given):
        alone = prefix_cache(model.lm, block, room=8)
        assert (logits_BV[row] - prefill(model.lm, alone, QUESTION)).abs().max() < BOUND
        if row == 3:
            continue
        more = NEXT[:1] if row == 1 else NEXT
        exact_V = prefill(model.lm, alone, more)
        assert (then_BV[row] - exact_V).abs().max() < BOUND
        cache = batch.row(row, room=4)
        exact_V = prefill(model.lm, alone, [40])
        assert (prefill(model.lm, cache, [40]) - exact_V).abs().max() < BOUND
    some = batch.select([1, 0], room=4)
    alone = prefix_cache(model.lm, blocks[1], room=8)
    exact_V = prefill(model.lm, alone, [*QUESTION, NEXT[0], 50])
    assert (some.prefill([50])[0, -1] - exact_V).abs().max() < BOUND


def test_without_the_position_after_the_image_the_rows_differ(cases):
    """The test above can fail: with M-RoPE, the position after a block is not its size."""
    model = cases("qwen2_vl").grit
    _, (block,) = model.encode([{"image": image(1)}], get_cache=True)
    assert block.end is not None
    assert block.end != block.tokens
    batch = RowBatch(model.lm, [block], room=8)
    batch._offsets = [0]
    exact_V = prefill(model.lm, prefix_cache(model.lm, block, room=8), QUESTION)
    assert torch.isfinite(exact_V).all()
    assert (batch.prefill(QUESTION)[0, -1] - exact_V).abs().max() > BOUND
