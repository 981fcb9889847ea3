"""Drafts in the engine: the same text, fewer steps, counted in the metrics."""

from __future__ import annotations

import pytest

from gritlm import GritLM
from gritlm.serve.metrics import Metrics
from tests.serve.asking import Asked, held, scheduled, to_write

TEXTS = ["cats and dogs and cats and", "water", "Tell me about Ann and Bob in the park."]
TOKENS = 60


@pytest.fixture(scope="module")
def model(tiny_model) -> GritLM:
    return GritLM(tiny_model(max_position_embeddings=512), dtype="float32", device="cpu")


def plain(model: GritLM, text: str, **settings) -> str:
    return model.chat(text, max_new_tokens=TOKENS, prompt_lookup_num_tokens=0, **settings)


def test_a_sequence_alone_takes_fewer_steps_for_the_same_text(model):
    with scheduled(model) as scheduler:
        for text in TEXTS:
            asked = Asked(scheduler, to_write(model, text, TOKENS, ignore_eos=True))
            assert asked.text == plain(model, text, ignore_eos=True)
        stats = scheduler.stats()
        assert 0 < stats.accepted < stats.drafted
        assert stats.steps == len(TEXTS) * (TOKENS - 1) - stats.accepted


def test_no_drafts_when_they_are_switched_off(model):
    with scheduled(model) as scheduler:
        request = to_write(model, TEXTS[0], TOKENS, prompt_lookup_num_tokens=0, ignore_eos=True)
        assert Asked(scheduler, request).text == plain(model, TEXTS[0], ignore_eos=True)
        assert (scheduler.stats().steps, scheduler.stats().drafted) == (TOKENS - 1, 0)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.8, "seed": 3},
        {"frequency_penalty": 1.0, "repetition_penalty": 1.3},
        {"stop": ("the",)},
        {"min_new_tokens": 9},
    ],
)
def test_sampling_stop_strings_and_penalties_are_the_same(model, settings):
    with scheduled(model) as scheduler:
        for text in TEXTS:
            asked = Asked(scheduler, to_write(model, text, TOKENS, **settings))
            assert asked.text == plain(model, text, **settings)


def test_sequences_that_run_together_and_end_one_by_one_give_the_same_texts(model):
    sizes = [TOKENS, 20, 35]
    with scheduled(model) as scheduler:
        with held(scheduler):
            asked = [
                Asked(scheduler, to_write(model, text, size))
                for text, size in zip(TEXTS, sizes, strict=True)
            ]
        for each, text, size in zip(asked, TEXTS, sizes, strict=True):
            whole = model.chat(text, max_new_tokens=size, prompt_lookup_num_tokens=0)
            assert each.text == whole


def test_a_slot_is_reused_after_drafts(model):
    """Keys and values of a dropped draft are no part of the prefix of a later prompt."""
    with scheduled(model) as scheduler:
        for size in (7, 23, TOKENS):
            for text in TEXTS:
                whole = model.chat(text, max_new_tokens=size, prompt_lookup_num_tokens=0)
                assert Asked(scheduler, to_write(model, text, size)).text == whole


def test_metrics_count_drafts(model):
    with scheduled(model) as scheduler:
        assert Asked(scheduler, to_write(model, TEXTS[0], TOKENS, ignore_eos=True)).text
        lines = Metrics(scheduler.stats).exposition().decode().splitlines()
        stats = scheduler.stats()
    assert f"gritlm_spec_decode_num_draft_tokens_total {float(stats.drafted)}" in lines
    assert f"gritlm_spec_decode_num_accepted_tokens_total {float(stats.accepted)}" in lines
