"""Blocks read apart, moved and joined are the prompt that they stand for, or reuse is refused."""

from __future__ import annotations

import pytest
import torch

from gritlm import GritLM
from gritlm.errors import ModelError
from gritlm.lm.kv.rope import RopeTable
from gritlm.lm.unified import UnifiedLM
from gritlm.rag.plan import PromptAssembler
from gritlm.rag.reuse import reuse_check
from tests import tiny

FAMILIES = ["llama", "qwen3", "mixtral", "phi", "gpt_neox", "gemma3"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("causal", [False, True])
def test_it_holds_for_models_with_rotary_positions(family, causal):
    window = {"sliding_window": 4096} if family == "gemma3" else {}
    found = reuse_check.check(UnifiedLM(tiny.model(family, **window)), bos=[1], causal=causal)
    assert found.holds
    assert found.difference < 1e-4


def test_it_does_not_hold_when_keys_are_moved_wrong(monkeypatch):
    lm = UnifiedLM(tiny.model("llama"))
    assert lm.rope() is not None  # it is tried when it is made
    monkeypatch.setattr(RopeTable, "rotate", lambda self, key, shift: key)
    found = reuse_check.check(lm, bos=[1])
    assert found.difference > 100 * found.tolerance
    with pytest.raises(ModelError, match=r"differ by .* mode='none'"):
        reuse_check.require(found, name="a model")


def test_the_two_kinds_of_blocks_differ():
    """The bound above means something."""
    lm = UnifiedLM(tiny.model("llama"))
    parts, tail = [[1, 30, 40, 50, 60], [1, 70, 80, 90]], [5, 6, 7]
    one, other = (
        reuse_check.block_masked_logits(lm, parts, tail, bos=1, causal=causal) for causal in (0, 1)
    )
    assert (one - other).abs().max() > 0.01 * one.std()


def test_half_precision_holds_within_its_rounding():
    model = tiny.model("llama").to(torch.bfloat16)
    found = reuse_check.check(UnifiedLM(model), bos=[1])
    assert found.holds


@pytest.mark.parametrize("causal", [False, True])
def test_in_bfloat16_the_default_model_holds_and_unmoved_keys_do_not(
    default_folder, monkeypatch, causal
):
    model = GritLM(dtype="bfloat16", device="cpu")
    bos = PromptAssembler(model).prefix
    found = reuse_check.check(model.lm, bos=bos, causal=causal)
    assert found.difference < 0.8 * found.tolerance
    monkeypatch.setattr(RopeTable, "rotate", lambda self, key, shift: key)
    unmoved = reuse_check.check(model.lm, bos=bos, causal=causal)
    assert unmoved.difference > 1.1 * found.tolerance
