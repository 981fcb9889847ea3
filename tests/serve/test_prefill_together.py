"""Prompts that wait together are prefilled in one pass, within the bounds of a step."""

from __future__ import annotations

import dataclasses

import pytest

from gritlm import GritLM
from gritlm.serve.engine import kv_slots
from gritlm.serve.engine.kv_slots import BatchedSlots
from gritlm.serve.engine.requests import GenerateRequest
from tests.serve.asking import Asked, held, scheduled, to_write

TEXTS = ["Tell me about cats.", "What is water?", "Count to ten.", "Ann has a red ball. Who has?"]
SYSTEM = {"role": "system", "content": "A model that reads, searches and writes. Be brief."}
TOKENS = 12


@pytest.fixture(scope="module", params=["llama", "mistral"])
def model(request, tiny_model) -> GritLM:
    folder = tiny_model(request.param, max_position_embeddings=512)
    return GritLM(folder, dtype="float32", device="cpu")


@pytest.fixture
def passes(monkeypatch) -> list[list[int]]:
    """Tokens of each prompt in each pass over prompts."""
    noted: list[list[int]] = []
    together = kv_slots.read_side_by_side
    alone = BatchedSlots.prefill

    def noted_together(lm, caches, ids, keep):
        noted.append(list(map(len, ids)))
        return together(lm, caches, ids, keep)

    def noted_alone(slots, slot, ids, *, room, **options):
        if room:  # not the pass over a draft
            noted.append([len(ids)])
        return alone(slots, slot, ids, room=room, **options)

    monkeypatch.setattr(kv_slots, "read_side_by_side", noted_together)
    monkeypatch.setattr(BatchedSlots, "prefill", noted_alone)
    return noted


def owned(request: GenerateRequest, owner: str) -> GenerateRequest:
    return dataclasses.replace(request, owner=owner)


def with_system(text: str) -> list[dict[str, str]]:
    return [SYSTEM, {"role": "user", "content": text}]


def test_waiting_prompts_are_one_pass_and_give_the_texts_of_single_ones(model, passes):
    expected = [model.chat(text, max_new_tokens=TOKENS) for text in TEXTS]
    requests = [to_write(model, text, TOKENS) for text in TEXTS]
    with scheduled(model) as scheduler:
        with held(scheduler):
            asked = [Asked(scheduler, request) for request in requests]
        assert [one.text for one in asked] == expected
    assert passes == [[len(request.ids) for request in requests]]


def test_a_pass_has_no_more_tokens_than_a_step_may_prefill(model, passes):
    texts = ["cats and dogs " * 9, *TEXTS]
    expected = [model.chat(text, max_new_tokens=TOKENS) for text in texts]
    requests = [to_write(model, text, TOKENS) for text in texts]
    assert len(requests[0].ids) > 64
    with scheduled(model, max_num_seqs=8, max_num_batched_tokens=32) as scheduler:
        with held(scheduler):
            asked = [Asked(scheduler, request) for request in requests]
        assert [one.text for one in asked] == expected
    assert max(map(sum, passes)) <= 32
    assert max(map(len, passes)) > 1
    cached = sum(one.started.cached_tokens for one in asked)
    assert sum(map(sum, passes)) == sum(len(request.ids) for request in requests) - cached


def test_prompts_with_the_same_beginning_read_it_one_time(model, passes):
    texts = [with_system(text) for text in TEXTS]
    expected = [model.chat(text, max_new_tokens=TOKENS) for text in texts]
    requests = [to_write(model, text, TOKENS) for text in texts]
    with scheduled(model) as scheduler:
        with held(scheduler):
            asked = [Asked(scheduler, request) for request in requests]
        assert [one.text for one in asked] == expected
        cached = [one.started.cached_tokens for one in asked]
    assert cached[0] == 0
    assert min(cached[1:]) >= 16
    unread = [len(request.ids) - held for request, held in zip(requests, cached, strict=True)]
    assert passes == [unread[:1], unread[1:]]


def test_the_same_prompt_of_two_owners_is_read_for_each(model, passes):
    request = to_write(model, with_system(TEXTS[0]), TOKENS)
    with scheduled(model) as scheduler:
        with held(scheduler):
            asked = [Asked(scheduler, owned(request, owner)) for owner in ("a", "b")]
        assert [one.started.cached_tokens for one in asked] == [0, 0]
        assert passes == [[len(request.ids)] * 2]
        again = Asked(scheduler, owned(request, "b")).ended()
        assert again.started.cached_tokens == len(request.ids) - 1
        assert Asked(scheduler, owned(request, "c")).started.cached_tokens == 0


def test_a_prompt_that_fails_in_a_pass_fails_alone(model, monkeypatch):
    expected = [model.chat(text, max_new_tokens=TOKENS) for text in TEXTS]
    requests = [to_write(model, text, TOKENS) for text in TEXTS]
    bad = list(requests[1].ids)
    together, alone = kv_slots.read_side_by_side, BatchedSlots.prefill

    def breaks_together(lm, caches, ids, keep):
        together(lm, caches, ids, keep)
        raise RuntimeError("out of memory together")

    def breaks_alone(slots, slot, ids, **options):
        if list(ids) == bad:
            raise RuntimeError("out of memory alone")
        return alone(slots, slot, ids, **options)

    monkeypatch.setattr(kv_slots, "read_side_by_side", breaks_together)
    monkeypatch.setattr(BatchedSlots, "prefill", breaks_alone)
    with scheduled(model) as scheduler:
        with held(scheduler):
            asked = [Asked(scheduler, request) for request in requests]
        assert str(asked.pop(1).error) == "out of memory alone"
        assert [one.text for one in asked] == expected[:1] + expected[2:]
        assert scheduler.stats().kv_used == 0


def test_a_cancelled_prompt_is_not_in_the_pass(model, passes):
    requests = [to_write(model, text, TOKENS, prompt_lookup_num_tokens=0) for text in TEXTS]
    with scheduled(model) as scheduler:
        with held(scheduler):
            asked = [Asked(scheduler, request) for request in requests]
            asked[2].ticket.cancel()
        others = asked[:2] + asked[3:]
        assert all(one.text for one in others)
    assert not asked[2].events
    assert passes == [[len(requests[n].ids) for n in (0, 1, 3)]]


def test_a_sequence_decodes_after_each_budget_of_prompt_tokens(model, passes, monkeypatch):
    texts = [f"{n} is a number. {'cats and dogs ' * 4}" for n in range(6)]
    step = BatchedSlots.step

    def noted(slots, running, tokens):
        passes.append([])
        return step(slots, running, tokens)

    monkeypatch.setattr(BatchedSlots, "step", noted)
    with scheduled(model, max_num_seqs=8, max_num_batched_tokens=64) as scheduler:
        endless = {"ignore_eos": True, "prompt_lookup_num_tokens": 0}
        long = Asked(scheduler, to_write(model, TEXTS[0], 300, **endless)).begun()
        with held(scheduler):
            asked = [Asked(scheduler, to_write(model, text, 4)) for text in texts]
        for one in asked:
            one.ended()
        long.ticket.cancel()
    between = [0]
    for prompts in passes[1:]:
        if prompts:
            between[-1] += sum(prompts)
        else:
            between.append(0)
    assert 0 < max(between) <= 64
    assert sum(between) > 128
