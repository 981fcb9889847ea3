"""Nobody starves: chats, prompts, texts and other work take turns."""

from __future__ import annotations

import threading
import time
from itertools import pairwise

import pytest

from gritlm import GritLM
from gritlm.lm.encoder import Encoder
from gritlm.lm.kv.slot_memory import SlotMemory
from gritlm.lm.unified import UnifiedLM
from gritlm.serve.engine import kv_slots
from gritlm.serve.engine.queue import RequestQueue
from gritlm.serve.engine.requests import ModelJob
from tests.serve.asking import Asked, endless, held, scheduled, texts_of, to_write

BUDGET = 48


@pytest.fixture(scope="module")
def model(tiny_model) -> GritLM:
    return endless(tiny_model)


class Watch:
    """What the model does, in its order: ``("step", rows)``, ``("read", tokens)`` of a prompt,
    ``("embed", tokens)``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[tuple[str, int]] = []
        step, vectors, prefill = SlotMemory.step, Encoder.vectors, kv_slots.prefill

        def watched_step(memory, tokens, *rest, **options):
            self.done.append(("step", len(tokens)))
            return step(memory, tokens, *rest, **options)

        def watched_vectors(encoder, batch, **options):
            self.done.append(("embed", sum(len(prompt.ids) for prompt in batch)))
            return vectors(encoder, batch, **options)

        def watched_prefill(lm, cache, ids, **options):
            self.done.append(("read", len(ids)))
            return prefill(lm, cache, ids, **options)

        monkeypatch.setattr(SlotMemory, "step", watched_step)
        monkeypatch.setattr(Encoder, "vectors", watched_vectors)
        monkeypatch.setattr(kv_slots, "prefill", watched_prefill)

    def between_steps(self, kind: str) -> list[int]:
        """Tokens of a kind between each two steps."""
        found, steps = [0], [at for at, (what, _) in enumerate(self.done) if what == "step"]
        for start, end in pairwise(steps):
            found.append(sum(size for what, size in self.done[start:end] if what == kind))
        return found


def test_at_most_the_budget_of_texts_is_read_between_two_steps(model, monkeypatch):
    with scheduled(model, max_num_batched_tokens=BUDGET) as scheduler:
        watch = Watch(monkeypatch)
        with held(scheduler):
            chat = Asked(scheduler, to_write(model, "Tell me about cats.", 40))
            bulk = Asked(scheduler, texts_of([5, 30, 12, 48, 7, 20] * 10))
        chat.ended()
        bulk.ended()
    embedded = watch.between_steps("embed")
    assert max(embedded) <= BUDGET
    assert sum(size > 0 for size in embedded) > 10  # and they do go on beside the chat


def test_at_most_the_budget_of_prompts_is_read_between_two_steps(model, monkeypatch):
    with scheduled(model, max_num_batched_tokens=BUDGET) as scheduler:
        chat = Asked(scheduler, to_write(model, "Tell me about cats.", 60)).begun()
        watch = Watch(monkeypatch)
        prompt = " ".join(["water"] * 60)
        others = [Asked(scheduler, to_write(model, f"{n} {prompt}", 4)) for n in range(2)]
        for one in (chat, *others):
            one.ended()
    assert 0 < max(watch.between_steps("read")) <= BUDGET


def test_texts_are_read_one_batch_behind_the_other_while_nobody_writes(model, monkeypatch):
    with scheduled(model, max_num_batched_tokens=BUDGET) as scheduler:
        watch = Watch(monkeypatch)
        Asked(scheduler, texts_of([16] * 12)).ended()
    assert watch.done == [("embed", 48)] * 4


def test_texts_of_several_requests_share_a_batch(model, monkeypatch):
    with scheduled(model, max_num_batched_tokens=BUDGET) as scheduler:
        watch = Watch(monkeypatch)
        with held(scheduler):
            asked = [Asked(scheduler, texts_of([size])) for size in (8, 40, 9, 10, 39, 11)]
        for one in asked:
            one.ended()
    # The oldest text with its likes; then the others, longest first.
    assert watch.done == [("embed", 38), ("embed", 40), ("embed", 39)]


def test_a_text_longer_than_the_budget_is_read_alone(model, monkeypatch):
    with scheduled(model, max_num_batched_tokens=BUDGET) as scheduler:
        watch = Watch(monkeypatch)
        assert Asked(scheduler, texts_of([8, 100])).value.shape == (2, 48)
    assert sorted(watch.done) == [("embed", 8), ("embed", 100)]


def test_chats_go_on_between_the_layers_of_a_batch(model, monkeypatch):
    steps_before: list[int] = []
    packed = UnifiedLM._packed
    with scheduled(model) as scheduler:

        def slow(lm, view, ids_T, lengths, cache, pause=None):
            steps_before.append(scheduler.stats().steps)
            for _ in range(3):
                time.sleep(0.01)
                pause()
            steps_before.append(scheduler.stats().steps)
            return packed(lm, view, ids_T, lengths, cache, pause)

        chat = Asked(scheduler, to_write(model, "Tell me about cats.", 400)).begun()
        monkeypatch.setattr(UnifiedLM, "_packed", slow)
        Asked(scheduler, texts_of([200])).ended()
        chat.ticket.cancel()
    assert steps_before[1] - steps_before[0] >= 2


def test_reading_many_prompts_does_not_give_texts_as_long_a_turn(model, monkeypatch):
    steps_before: list[int] = []
    packed, read = UnifiedLM._packed, kv_slots.prefill
    with scheduled(model, max_num_batched_tokens=4 * BUDGET) as scheduler:

        def slow_reading(*arguments):
            time.sleep(0.5)
            return read(*arguments)

        def slow(lm, view, ids_T, lengths, cache, pause=None):
            chats = [Asked(scheduler, to_write(model, f"Who is {n}?", 400)) for n in "ab"]
            while not all(chat.deltas for chat in chats):
                pause()
            steps_before.append(scheduler.stats().steps)
            for _ in range(20):
                time.sleep(0.02)
                pause()
            steps_before.append(scheduler.stats().steps)
            for chat in chats:
                chat.ticket.cancel()
            return packed(lm, view, ids_T, lengths, cache, pause)

        Asked(scheduler, to_write(model, "What is water?", 3)).ended()  # a step has been timed
        monkeypatch.setattr(kv_slots, "prefill", slow_reading)
        monkeypatch.setattr(UnifiedLM, "_packed", slow)
        Asked(scheduler, texts_of([200])).ended()
    assert steps_before[1] - steps_before[0] >= 10


def test_a_chat_that_arrives_during_a_long_batch_begins_before_it_ends(model, monkeypatch):
    packed, order = UnifiedLM._packed, []
    with scheduled(model) as scheduler:

        def slow(lm, view, ids_T, lengths, cache, pause=None):
            chat = Asked(scheduler, to_write(model, "What is water?", 2))
            while not chat.is_over:
                pause()
            order.append("chat")
            return packed(lm, view, ids_T, lengths, cache, pause)

        monkeypatch.setattr(UnifiedLM, "_packed", slow)
        Asked(scheduler, texts_of([200]), lambda _: order.append("texts")).ended()
    assert order == ["chat", "texts"]


def test_chats_and_texts_go_on_when_long_work_lets_them(model):
    with scheduled(model) as scheduler:

        def long(checkpoint):
            chat = Asked(scheduler, to_write(model, "What is water?", 5))
            texts = Asked(scheduler, texts_of([8, 9]))
            turns = 0
            while not (chat.is_over and texts.is_over):
                checkpoint()
                turns += 1
            return turns

        assert Asked(scheduler, ModelJob(long, tokens=10)).value <= 8


def test_cancelled_work_ends_where_it_lets_others_run(model):
    reached = threading.Event()

    def long(checkpoint):
        reached.set()
        while True:
            checkpoint()

    with scheduled(model) as scheduler:
        asked = Asked(scheduler, ModelJob(long))
        assert reached.wait(10)
        asked.ticket.cancel()
        assert Asked(scheduler, ModelJob(lambda checkpoint: 1)).value == 1
    assert not asked.events


def test_texts_and_other_work_take_turns(model):
    order: list[str] = []
    with scheduled(model, max_num_batched_tokens=BUDGET) as scheduler:
        with held(scheduler):
            asked = [
                Asked(scheduler, ModelJob(lambda checkpoint: 0), lambda _: order.append("work"))
                for _ in range(3)
            ]
            for _ in range(3):
                asked.append(Asked(scheduler, texts_of([48]), lambda _: order.append("texts")))
        for one in asked:
            one.ended()
    assert order in (["texts", "work"] * 3, ["work", "texts"] * 3)


def test_the_thread_sleeps_while_there_is_nothing_to_do(model, monkeypatch):
    looks, take = [0], RequestQueue.take

    def counted(inbox):
        looks[0] += 1
        return take(inbox)

    monkeypatch.setattr(RequestQueue, "take", counted)
    with scheduled(model) as scheduler:
        Asked(scheduler, texts_of([8])).ended()
        time.sleep(0.05)
        seen = looks[0]
        time.sleep(0.1)
        assert looks[0] == seen
        assert scheduler.stats().silent_s == 0


def test_numbers_tell_what_runs_and_what_waits(model):
    with scheduled(model, max_num_seqs=2, max_model_len=256) as scheduler:
        chats = [Asked(scheduler, to_write(model, "What is water?", 200)) for _ in range(2)]
        for chat in chats:
            chat.begun()
        waiting = Asked(scheduler, to_write(model, "What is a fox?", 2))
        stats = scheduler.stats()
        assert (stats.running, stats.waiting, stats.slots, stats.kv_held) == (2, 1, 2, 512)
        assert stats.waiting_tokens == len(model.chat_ids("What is a fox?"))
        assert stats.kv_used >= 2 * len(model.chat_ids("What is water?"))
        for one in (*chats, waiting):
            one.ticket.cancel()
