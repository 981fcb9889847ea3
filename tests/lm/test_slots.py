"""Texts of different lengths in one memory, stepped together."""

from __future__ import annotations

import pytest
import torch

from gritlm.lm.attention import packed, ragged
from gritlm.lm.attention.ragged import runs
from gritlm.lm.generator import prefill, prefix_cache
from gritlm.lm.kv.cache import PreallocatedLayer
from gritlm.lm.kv.slot_memory import SlotMemory, obstacle
from gritlm.lm.unified import UnifiedLM
from tests import tiny

BOUND = 1e-4
TEXTS = [list(range(3, 3 + size)) for size in (1, 5, 30, 12)]


def expected(lm: UnifiedLM, ids: list[int], token: int) -> torch.Tensor:
    """Logits of one plain pass over all of it."""
    with torch.inference_mode():
        return lm.causal(torch.tensor([[*ids, token]])).logits[0, -1]


def filled(lm: UnifiedLM, slots: int, capacity: int = 64) -> SlotMemory:
    memory = SlotMemory(lm, slots, capacity)
    for slot, ids in enumerate(TEXTS):
        prefill(lm, memory.cache(slot, 0), ids)
    return memory


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_step_of_several_texts_equals_a_pass_over_each(family, monkeypatch):
    lm = UnifiedLM(tiny.model(family))
    assert obstacle(lm) is None
    for call_tokens in (ragged.CALL_TOKENS, 0):  # one call for all, or one a text
        monkeypatch.setattr(ragged, "CALL_TOKENS", call_tokens)
        logits_BV = filled(lm, 4).step([7, 8, 9, 10], [0, 1, 2, 3], [len(ids) for ids in TEXTS])
        for ids, token, logits_V in zip(TEXTS, (7, 8, 9, 10), logits_BV, strict=True):
            assert (logits_V - expected(lm, ids, token)).abs().max() < BOUND


def test_texts_that_stand_still_are_not_touched_by_a_step():
    lm = UnifiedLM(tiny.model())
    memory = filled(lm, 4)
    before = [memory.cache(slot, len(TEXTS[slot])).layers[0].keys.clone() for slot in (0, 2)]
    memory.step([8, 10], [1, 3], [len(TEXTS[1]), len(TEXTS[3])])
    for slot, keys in zip((0, 2), before, strict=True):
        held = len(TEXTS[slot])
        now = memory.cache(slot, held).layers[0].keys
        assert torch.equal(now[:, :, :held], keys[:, :, :held])


def test_a_copied_prefix_is_read_on_like_the_original():
    lm = UnifiedLM(tiny.model("mistral"))
    memory = filled(lm, 5)
    memory.copy(2, 4, 10)
    logits_V = prefill(lm, memory.cache(4, 10), [50, 51])
    assert (logits_V - expected(lm, [*TEXTS[2][:10], 50], 51)).abs().max() < BOUND


def test_a_state_of_another_cache_goes_on_in_a_slot():
    lm = UnifiedLM(tiny.model())
    cache = prefix_cache(lm, None, room=20)
    prefill(lm, cache, TEXTS[3])
    memory = SlotMemory(lm, 2, 32)
    memory.adopt(1, cache, len(TEXTS[3]))
    logits_BV = memory.step([9], [1], [len(TEXTS[3])])
    assert (logits_BV[0] - expected(lm, TEXTS[3], 9)).abs().max() < BOUND


def test_a_slot_takes_no_more_than_it_has_room_for():
    lm = UnifiedLM(tiny.model())
    memory = SlotMemory(lm, 2, 8)
    with pytest.raises(ValueError, match="room for 8 tokens, not for 9"):
        prefill(lm, memory.cache(0, 0), list(range(3, 12)))


def test_a_slot_that_held_no_numbers_harms_nobody_when_it_was_cleared():
    lm = UnifiedLM(tiny.model())
    memory = filled(lm, 4)
    memory.cache(0, 0).layers[0].values[:] = torch.nan
    memory.clear(0)
    prefill(lm, memory.cache(0, 0), TEXTS[0])
    logits_BV = memory.step([7, 8], [0, 1], [len(TEXTS[0]), len(TEXTS[1])])
    assert (logits_BV[0] - expected(lm, TEXTS[0], 7)).abs().max() < BOUND


def test_neighbours_of_like_length_share_a_call():
    made = runs([0, 1, 2, 5, 6], [10, 20, 900, 30, 31], torch.device("cpu"))
    assert [(run.slots.start, run.slots.stop) for run in made] == [(0, 2), (2, 3), (5, 7)]
    assert [(run.rows.start, run.rows.stop) for run in made] == [(0, 2), (2, 3), (3, 5)]


def test_texts_of_one_length_need_no_mask():
    (run,) = runs([0, 1], [9, 9], torch.device("cpu"))
    assert run.seen(None) == (slice(0, 9), None)
    assert run.seen(4) == (slice(5, 9), None)


def test_what_cannot_be_stepped_together_is_found_beforehand(monkeypatch):
    lm = UnifiedLM(tiny.model())
    monkeypatch.setattr(SlotMemory, "step", lambda *_: torch.zeros(2, 400))
    assert "gives other logits" in obstacle(lm)
    monkeypatch.setattr(SlotMemory, "step", lambda *_: torch.full((2, 400), torch.nan))
    assert "gives other logits" in obstacle(lm)
    monkeypatch.undo()
    monkeypatch.setattr(packed, "CHANGES_SCORES", ("dropout",))
    assert "attends with 'dropout'" in obstacle(UnifiedLM(tiny.model("gemma")))


def test_a_model_with_fixed_caches_is_not_stepped_together():
    lm = UnifiedLM(tiny.model())
    lm.compiled = True
    assert not isinstance(lm.new_cache(1).layers[0], PreallocatedLayer)
    assert "holds more than keys and values, or is compiled" in obstacle(lm)


def test_frequencies_that_depend_on_the_length_are_not_stepped_together():
    scaling = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    lm = UnifiedLM(tiny.model(rope_parameters=scaling))
    assert "depend on the length" in obstacle(lm)
