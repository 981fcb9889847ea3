"""Drafts in the engine: the same text, fewer steps, counted in the metrics."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gritlm import GritLM
from gritlm.serve.engine import drafts
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


def all_kinds(model: GritLM) -> list[tuple[str, dict[str, Any]]]:
    """Texts with settings: greedy, sampled, with penalties, a grammar, and stop strings."""
    start = model.grammar({"type": "json_schema", "json_schema": {"schema": {"type": "array"}}})
    return [
        (TEXTS[0], {"ignore_eos": True}),
        (TEXTS[1], {"ignore_eos": True}),
        (TEXTS[2], {"ignore_eos": True, "logprobs": 2}),
        (TEXTS[0], {"temperature": 0.7, "seed": 11}),
        (TEXTS[1], {"repetition_penalty": 1.2, "ignore_eos": True}),
        (TEXTS[2], {"stop": ("the",)}),
        (TEXTS[2], {"mask": start.start}),
        ("water " * 12, {"ignore_eos": True}),
    ]


@pytest.mark.parametrize("always", [False, True])
def test_drafts_of_several_sequences_share_passes_and_change_no_text(model, monkeypatch, always):
    """Every kind of sequence is in the batch; drafts are verified where they pay, and always."""
    if always:
        monkeypatch.setattr(drafts, "worthwhile_drafts", lambda found, *_, **__: found)
    kinds = all_kinds(model)
    stats = {}
    texts = {}
    for most in (0, 10):
        with scheduled(model, max_num_seqs=len(kinds)) as scheduler:
            with held(scheduler):
                requests = [
                    to_write(model, text, TOKENS, prompt_lookup_num_tokens=most, **settings)
                    for text, settings in kinds
                ]
                asked = [Asked(scheduler, request) for request in requests]
            texts[most] = [each.text for each in asked]
            logprobs = [delta.logprobs for delta in asked[2].deltas]
            assert sum(map(len, logprobs)) == TOKENS
            stats[most] = scheduler.stats()
    assert texts[10] == texts[0]
    for text, settings, found in zip(*zip(*kinds, strict=True), texts[10], strict=True):
        others = {name: value for name, value in settings.items() if name != "logprobs"}
        assert found == plain(model, text, **others)
    assert stats[0].drafted == 0
    if always:
        assert 0 < stats[10].accepted < stats[10].drafted


def test_a_pass_over_drafts_that_fails_is_made_for_each_sequence_alone(model, monkeypatch):
    from gritlm.serve.engine import kv_slots

    def failing(*_: object) -> list[object]:
        raise RuntimeError("no memory for all of them")

    monkeypatch.setattr(kv_slots, "read_side_by_side", failing)
    with scheduled(model) as scheduler:
        with held(scheduler):
            asked = [Asked(scheduler, to_write(model, text, TOKENS)) for text in TEXTS]
        assert [each.text for each in asked] == [plain(model, text) for text in TEXTS]
        assert scheduler.stats().accepted > 0


def test_sequences_of_several_models_share_no_pass_over_drafts(tiny_model, make_adapter, tmp_path):
    folder = tiny_model(max_position_embeddings=512)
    adapters = {"one": make_adapter(folder, tmp_path / "one")}
    base = GritLM(folder, adapters=adapters, dtype="float32", device="cpu")
    models = [base, base.with_adapter("one")]
    pairs = list(zip(models, TEXTS, strict=False))
    with scheduled(base) as scheduler:
        with held(scheduler):
            asked = [
                Asked(
                    scheduler,
                    replace(to_write(of, text, TOKENS, ignore_eos=True), model=of),
                )
                for of, text in pairs
            ]
        texts = [each.text for each in asked]
        assert texts == [plain(of, text, ignore_eos=True) for of, text in pairs]
        assert (scheduler.stats().drafted, scheduler.stats().steps) == (0, TOKENS - 1)


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
