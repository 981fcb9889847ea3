"""Texts in one pass, each after its own cache, give what each gives alone."""

from __future__ import annotations

import pytest
import torch

from gritlm import GritLM
from gritlm.lm.generator import prefill_with_logits
from gritlm.lm.kv.slot_memory import SlotMemory
from gritlm.lm.side_by_side import (
    read_side_by_side,
    reads_side_by_side,
    worthwhile_drafts,
    worthwhile_padded_drafts,
)

BOUND = 1e-5
HELD = [0, 37, 5, 0]  # tokens in the slots before
SIZES = [3, 1, 40, 18]
KEEP = [1, 1, 40, 2]


def ids(start: int, number: int) -> list[int]:
    return [3 + (start + 7 * i) % 200 for i in range(number)]


def memory_with_texts(model: GritLM) -> SlotMemory:
    memory = SlotMemory(model.lm, len(HELD), 128)
    for slot, held in enumerate(HELD):
        if held:
            prefill_with_logits(model.lm, memory.cache(slot, 0), ids(slot, held))
    return memory


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3"])
def test_logits_and_later_tokens_are_those_of_each_text_alone(tiny_model, family):
    window = {"sliding_window": 16} if family == "mistral" else {}
    folder = tiny_model(family, max_position_embeddings=256, **window)
    model = GritLM(folder, dtype="float32", device="cpu")
    assert reads_side_by_side(model.lm)
    texts = [ids(31 * slot, size) for slot, size in enumerate(SIZES)]
    together = memory_with_texts(model)
    caches = [together.cache(slot, held) for slot, held in enumerate(HELD)]
    found = read_side_by_side(model.lm, caches, texts, KEEP)
    alone = memory_with_texts(model)
    for slot, (held, text, keep) in enumerate(zip(HELD, texts, KEEP, strict=True)):
        expected_SV = prefill_with_logits(model.lm, alone.cache(slot, held), text)[-keep:]
        assert found[slot].shape == expected_SV.shape
        torch.testing.assert_close(found[slot], expected_SV, atol=BOUND, rtol=BOUND)
        held += len(text)
        later = [
            prefill_with_logits(model.lm, memory.cache(slot, held), [9, 5, 7])
            for memory in (together, alone)
        ]
        torch.testing.assert_close(*later, atol=BOUND, rtol=BOUND)


def test_a_model_without_the_lean_pass_reads_each_text_alone(tiny_model):
    model = GritLM(tiny_model("gemma2"), dtype="float32", device="cpu")
    assert not reads_side_by_side(model.lm)


def test_drafts_are_verified_where_more_tokens_are_expected_than_by_steps():
    """Eight texts: a step takes as long as 32 tokens, a pass side by side as 48 and the drafts."""
    long, short = [7] * 10, [7] * 4
    none: list[int] = []
    sure = [long] * 4 + [none] * 4
    assert worthwhile_drafts(sure, [10.0] * 4 + [0.0] * 4) == sure
    assert worthwhile_drafts([short] + [none] * 7, [4.0] + [0.0] * 7) is None
    assert worthwhile_drafts([long] * 8, [1.0] * 8) is None
    doubtful = worthwhile_drafts([long] * 4 + [short] * 4, [10.0] * 4 + [0.5] * 4)
    assert doubtful == [long] * 4 + [none] * 4


def test_drafts_have_to_gain_more_where_a_step_is_compiled():
    found = [[7] * 8, [7] * 8]
    assert worthwhile_drafts(found, [2.0, 2.0]) == found
    assert worthwhile_drafts(found, [2.0, 2.0], compiled=True) is None
    assert worthwhile_drafts(found, [7.0, 7.0], compiled=True) == found


def test_drafts_of_a_padded_pass_are_cut_to_the_size_that_pays():
    long, short = [7] * 10, [7] * 4
    assert worthwhile_padded_drafts([long] * 8, [9.0] * 8, rows=8) == [long] * 8
    assert worthwhile_padded_drafts([short] + [[]] * 7, [4.0] + [0.0] * 7, rows=8) == [[]] * 8
    cut = worthwhile_padded_drafts([long] + [short] * 7, [5.0] + [4.0] * 7, rows=8)
    assert cut == [short] * 8
    assert worthwhile_padded_drafts([[], []], [0.0, 0.0], rows=4) == [[], []]
