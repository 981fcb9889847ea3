"""Chats and embeddings mixed give what each gives alone."""

from __future__ import annotations

import copy
import random
import threading

import numpy as np
import pytest
import torch

from gritlm import GritLM
from gritlm.lm.kv.slot_memory import obstacle
from gritlm.lm.sampling import SamplingParams
from gritlm.serve.engine.requests import GenerateRequest
from tests.serve.asking import Asked, held, scheduled, to_embed, to_write

BOUND = 1e-5
WORDS = ["cats", "dogs", "water", "ball", "fox", "model", "Ann", "Bob", "day", "park", "degrees"]


@pytest.fixture(scope="module")
def model(tiny_model) -> GritLM:
    folder = tiny_model(max_position_embeddings=512)
    return GritLM(folder, dtype="float32", device="cpu")


def some_text(chance: random.Random) -> str:
    return " ".join(chance.choices(WORDS, k=chance.randint(1, 24))) + "."


def test_16_chats_and_200_embeddings_at_random_give_what_each_gives_alone(model):
    chance = random.Random(0)
    chats = [(some_text(chance), chance.randint(1, 32)) for _ in range(16)]
    rows = [[some_text(chance) for _ in range(chance.randint(1, 3))] for _ in range(200)]
    answers = [model.chat(text, max_new_tokens=tokens) for text, tokens in chats]
    vectors = [model.encode(texts) for texts in rows]
    config, threads = copy.deepcopy(model.lm.config), set(threading.enumerate())
    works = [to_write(model, text, tokens) for text, tokens in chats]
    works += [to_embed(model, texts) for texts in rows]
    order = list(range(len(works)))
    chance.shuffle(order)
    with scheduled(model, max_num_batched_tokens=64) as scheduler:
        asked = {number: Asked(scheduler, works[number]) for number in order}
        assert [asked[number].text for number in range(16)] == answers
        for number, expected in enumerate(vectors, start=16):
            assert np.abs(asked[number].value - expected).max() < BOUND
    assert model.lm.config.to_dict() == config.to_dict()
    assert set(threading.enumerate()) == threads


@pytest.mark.parametrize(
    "family", ["mistral", "mixtral", "qwen3", "gemma2", "gemma3", "phi", "gpt_neox", "cohere2"]
)
def test_models_of_other_families_write_together_what_they_write_alone(family, tiny_model):
    made = GritLM(tiny_model(family), dtype="float32", device="cpu")
    assert obstacle(made.lm) is None
    texts = ["What is water?", " ".join(WORDS), "Tell me about Ann and Bob in the park."]
    answers = [made.chat(text, max_new_tokens=20) for text in texts]
    with scheduled(made) as scheduler:
        with held(scheduler):
            asked = [Asked(scheduler, to_write(made, text, 20)) for text in texts]
        assert [one.text for one in asked] == answers
        assert scheduler.stats().steps <= 20


def test_a_chat_that_comes_later_joins_the_steps_of_those_that_run(model):
    with scheduled(model) as scheduler:
        long = Asked(scheduler, to_write(model, "Tell me about cats.", 200)).begun()
        short = Asked(scheduler, to_write(model, "What is water?", 4)).ended()
        assert not long.is_over
        assert short.text == model.chat("What is water?", max_new_tokens=4)
        assert long.text == model.chat("Tell me about cats.", max_new_tokens=200)


def test_more_chats_than_slots_are_answered_in_the_order_in_which_they_came(model):
    ended: list[int] = []
    with scheduled(model, max_num_seqs=1) as scheduler:
        with held(scheduler):
            asked = [
                Asked(
                    scheduler,
                    to_write(model, f"What is {word}?", 3),
                    lambda event, number=number: ended.append(number),
                )
                for number, word in enumerate(WORDS[:4])
            ]
        for one in asked:
            one.ended()
    assert ended == sorted(ended)


@pytest.mark.parametrize("seed", [1, 7])
def test_drawn_tokens_are_fixed_by_the_seed_whatever_runs_beside(model, seed):
    how = {"temperature": 0.9, "top_p": 0.95, "top_k": 50, "seed": seed}
    expected = model.chat("Tell me about dogs.", max_new_tokens=24, **how)
    with scheduled(model) as scheduler:
        with held(scheduler):
            others = [Asked(scheduler, to_write(model, f"What is {w}?", 24)) for w in WORDS[:2]]
            drawn = Asked(scheduler, to_write(model, "Tell me about dogs.", 24, **how))
        assert drawn.text == expected
        for other in others:
            other.ended()


def test_a_stop_string_across_token_borders_ends_the_answer_and_is_not_part_of_it(model):
    whole = model.chat("Tell me about cats.", max_new_tokens=40)
    stop = whole[len(whole) // 2 - 2 : len(whole) // 2 + 3]
    expected = model.chat("Tell me about cats.", max_new_tokens=40, stop=stop)
    with scheduled(model) as scheduler:
        asked = Asked(scheduler, to_write(model, "Tell me about cats.", 40, stop=(stop,)))
        assert asked.text == expected == whole[: whole.index(stop)]
        assert asked.deltas[-1].finish_reason == "stop"


def test_an_answer_ends_for_its_end_token_or_for_its_length(model, monkeypatch):
    work = to_write(model, "Tell me about cats.", 5)
    with scheduled(model) as scheduler:
        cut = Asked(scheduler, work).ended()
    assert cut.deltas[-1].finish_reason == "length"
    assert [delta.tokens for delta in cut.deltas] == [1] * 5
    with torch.inference_mode():
        first = int(model.lm.causal(torch.tensor([work.ids])).logits[0, -1].argmax())
    monkeypatch.setattr(GritLM, "end_ids", frozenset([first]))
    with scheduled(model) as scheduler:
        ended = Asked(scheduler, work).ended()
    assert [(d.text, d.tokens, d.finish_reason) for d in ended.deltas] == [("", 0, "stop")]


def test_logprobs_are_those_of_one_plain_forward_pass(model):
    work = to_write(model, "What is water?", 6, logprobs=3)
    with scheduled(model) as scheduler:
        with held(scheduler):
            beside = Asked(scheduler, to_write(model, " ".join(WORDS), 6))
            asked = Asked(scheduler, work)
        told = [one for delta in asked.ended().deltas for one in delta.logprobs]
        beside.ended()
    ids = [*work.ids, *(one.token for one in told)]
    with torch.inference_mode():
        logits_LV = model.lm.causal(torch.tensor([ids])).logits[0].float()
    expected_LV = logits_LV[len(work.ids) - 1 : -1].log_softmax(dim=-1)
    assert len(told) == 6
    for one, logprob_V in zip(told, expected_LV, strict=True):
        best = logprob_V.topk(3)
        assert one.logprob == pytest.approx(float(logprob_V[one.token]), abs=BOUND)
        assert [token for token, _ in one.top] == best.indices.tolist()
        assert [value for _, value in one.top] == pytest.approx(best.values.tolist(), abs=BOUND)


def test_a_long_prompt_is_read_in_pieces_with_the_same_answer(model):
    text = " ".join(WORDS * 5)
    with scheduled(model, max_num_batched_tokens=16) as scheduler:
        with held(scheduler):
            other = Asked(scheduler, to_write(model, "What is water?", 24))
            asked = Asked(scheduler, to_write(model, text, 12))
        assert asked.text == model.chat(text, max_new_tokens=12)
        assert other.text == model.chat("What is water?", max_new_tokens=24)


def test_an_answer_may_fill_its_slot_to_the_last_token(model):
    ids = tuple(model.chat_ids("What is water?"))
    with scheduled(model, max_model_len=len(ids) + 5) as scheduler:
        asked = Asked(scheduler, GenerateRequest(ids, SamplingParams(100))).ended()
    assert sum(delta.tokens for delta in asked.deltas) == 5
    assert asked.text == model.chat("What is water?", max_new_tokens=5)
