"""Cancelled, refused, failed, drained: what goes wrong stays with whom it concerns."""

from __future__ import annotations

import time

import numpy as np
import pytest

from gritlm import GritLM
from gritlm.errors import InputError, ModeError
from gritlm.lm.encoder import Encoder
from gritlm.lm.kv.slot_memory import SlotMemory
from gritlm.lm.sampling import SamplingParams
from gritlm.serve.engine import kv_slots
from gritlm.serve.engine.embedding import EmbeddingQueue
from gritlm.serve.engine.errors import DrainingError, OverloadedError, PromptTooLongError
from gritlm.serve.engine.kv_slots import BatchedSlots, SeparateSlots
from gritlm.serve.engine.limits import Limits
from gritlm.serve.engine.requests import (
    EmbedRequest,
    GenerateRequest,
    ModelJob,
    OutputDelta,
    ResumeRequest,
)
from gritlm.serve.engine.scheduler import Scheduler
from tests.serve.asking import Asked, endless, held, scheduled, texts_of, to_embed, to_write

LONG = 400  # tokens of a chat that does not end by itself while a test runs


@pytest.fixture(scope="module")
def model(tiny_model) -> GritLM:
    return endless(tiny_model)


def test_a_cancelled_chat_gives_its_slot_back_within_one_step(model):
    steps: list[int] = []
    with scheduled(model, max_num_seqs=1) as scheduler:

        def gone(event):
            if isinstance(event, OutputDelta) and not steps:
                asked.ticket.cancel()
                steps.append(scheduler.stats().steps)

        with held(scheduler):
            asked = Asked(scheduler, to_write(model, "Tell me about cats.", LONG), gone)
            following = Asked(
                scheduler,
                to_write(model, "What is water?", 3),
                lambda _: steps.append(scheduler.stats().steps),
            )
        assert following.text == model.chat("What is water?", max_new_tokens=3)
        assert steps[1] - steps[0] <= 1
        assert len(asked.events) == 2  # started, and the first token
        asked.ticket.cancel()  # again, and after the end: nothing happens


def test_a_cancelled_chat_that_waits_leaves_the_queue(model):
    with scheduled(model, max_num_seqs=1) as scheduler:
        running = Asked(scheduler, to_write(model, "Tell me about cats.", LONG)).begun()
        waiting = Asked(scheduler, to_write(model, "What is water?", 3))
        waiting.ticket.cancel()
        seen = len(running.deltas)
        while len(running.deltas) < seen + 3:
            time.sleep(0.001)
        assert scheduler.stats().waiting == scheduler.stats().waiting_tokens == 0
        running.ticket.cancel()
    assert not waiting.events


def test_texts_of_a_cancelled_request_are_not_read(model, monkeypatch):
    read, vectors = [], Encoder.vectors
    with scheduled(model, max_num_batched_tokens=32) as scheduler:

        def counted(self, batch, **options):
            read.extend(len(prompt.ids) for prompt in batch)
            cancelled.ticket.cancel()  # while its first batch is read
            return vectors(self, batch, **options)

        monkeypatch.setattr(Encoder, "vectors", counted)
        with held(scheduler):
            cancelled = Asked(scheduler, texts_of([16] * 20))
            other = Asked(scheduler, texts_of([8]))
        assert other.value.shape == (1, 48)
        assert scheduler.stats().waiting_tokens == 0
    assert read == [16, 16, 8]
    assert not cancelled.events


def test_a_client_that_cannot_be_told_is_forgotten(model):
    with scheduled(model) as scheduler:

        def gone(_):
            raise RuntimeError("the event loop is closed")

        Asked(scheduler, to_write(model, "Tell me about cats.", LONG), gone)
        other = Asked(scheduler, to_write(model, "What is water?", 20)).ended()
        assert scheduler.stats().running == 0
        assert other.text == model.chat("What is water?", max_new_tokens=20)


def test_one_request_too_many_is_refused_with_the_time_to_try_again(model):
    with scheduled(model, max_waiting=2) as scheduler, held(scheduler):
        place = scheduler.reserve()  # an announced request counts as one
        Asked(scheduler, texts_of([8]))
        with pytest.raises(
            OverloadedError, match="2 requests wait already, at most 2 may"
        ) as found:
            scheduler.reserve()
        assert 1 <= found.value.retry_after_s <= 60
        place.release()
        place.release()  # again: nothing happens
        Asked(scheduler, texts_of([8]))


def test_too_many_waiting_tokens_are_refused_but_a_large_request_alone_is_not(model):
    with scheduled(model, max_waiting_tokens=100) as scheduler:
        with held(scheduler):
            large = Asked(scheduler, texts_of([60, 60]))
            with pytest.raises(OverloadedError, match="120 tokens wait already, at most 100 may"):
                Asked(scheduler, texts_of([8]))
            assert scheduler.stats().waiting == 1
        assert large.value.shape == (2, 48)
        assert Asked(scheduler, texts_of([8])).value.shape == (1, 48)


def test_what_is_accepted_ends_before_the_thread_does_and_nothing_new_is_taken(model):
    scheduler = Scheduler(model, Limits(max_num_seqs=2))
    scheduler.start()
    with held(scheduler):
        asked = [Asked(scheduler, to_write(model, "What is water?", 8)) for _ in range(5)]
        asked.append(Asked(scheduler, texts_of([8, 9])))
        announced = scheduler.reserve()
        scheduler._queue.drain()  # as stop() does first
        with pytest.raises(DrainingError, match="takes nothing new"):
            scheduler.reserve()
    late = announced.submit([to_write(model, "What is water?", 8)], [asked[0]._deliver])
    assert scheduler.stop(deadline_s=30)
    assert late is not None
    assert all(one.is_over for one in asked)


def test_what_has_not_ended_at_the_deadline_is_told_so(model):
    scheduler = Scheduler(model, Limits(max_num_seqs=1))
    scheduler.start()
    running = Asked(scheduler, to_write(model, "Tell me about cats.", LONG)).begun()
    waiting = Asked(scheduler, to_write(model, "What is water?", 8))
    assert not scheduler.stop()
    for one in (running, waiting):
        assert isinstance(one.error, DrainingError)
    with pytest.raises(DrainingError):
        scheduler.submit(texts_of([8]), print)


def test_long_work_ends_at_the_deadline_too(model):
    scheduler = Scheduler(model)
    scheduler.start()

    def forever(checkpoint):
        while True:
            checkpoint()

    asked = Asked(scheduler, ModelJob(forever))
    assert not scheduler.stop(deadline_s=0.05)
    assert isinstance(asked.error, DrainingError)


def test_a_scheduler_that_never_started_stops(model):
    assert Scheduler(model).stop()


def test_a_begin_that_fails_fails_alone(model):
    def begin(checkpoint):
        raise InputError("nothing to answer from")

    with scheduled(model) as scheduler:
        with held(scheduler):
            bad = Asked(scheduler, ResumeRequest(begin, 8, SamplingParams(4)))
            good = Asked(scheduler, to_write(model, "What is water?", 4))
        assert str(bad.error) == "nothing to answer from"
        assert good.text == model.chat("What is water?", max_new_tokens=4)
        assert scheduler.stats().running == 0


def test_work_that_fails_fails_alone(model):
    with scheduled(model) as scheduler:
        bad = Asked(scheduler, ModelJob(lambda checkpoint: 1 / 0))
        assert isinstance(bad.error, ZeroDivisionError)
        assert Asked(scheduler, ModelJob(lambda checkpoint: 7)).value == 7


def test_after_a_step_that_fails_those_who_ran_are_told_and_the_thread_goes_on(model, monkeypatch):
    step, expected = BatchedSlots.step, model.chat("What is water?", max_new_tokens=6)

    def breaks(self, slots, tokens):
        step(self, slots, tokens)
        monkeypatch.undo()
        raise RuntimeError("the device is lost")

    with scheduled(model) as scheduler:
        monkeypatch.setattr(BatchedSlots, "step", breaks)
        with held(scheduler):
            asked = [Asked(scheduler, to_write(model, "What is water?", 6)) for _ in range(2)]
        assert [str(one.error) for one in asked] == ["the device is lost"] * 2
        again = Asked(scheduler, to_write(model, "What is water?", 6)).ended()
        assert again.text == expected
        assert again.started.cached_tokens == 0  # nothing of what was there is relied on


@pytest.mark.parametrize("separate", [False, True])
def test_a_sequence_that_cannot_step_fails_alone(model, monkeypatch, separate):
    texts = ["What is water?", "Tell me about cats.", "Count to ten."]
    expected = [model.chat(text, max_new_tokens=8) for text in texts]
    bad_work = to_write(model, "cats " * 40, 8)
    held_tokens = len(bad_work.ids)
    if separate:
        monkeypatch.setattr("gritlm.serve.engine.scheduler.allocate_kv_slots", SeparateSlots)
        step = kv_slots.prefill

        def breaks(lm, cache, ids, **options):
            if len(ids) == 1 and int(cache.get_seq_length()) == held_tokens + 2:
                raise RuntimeError("no such token")
            return step(lm, cache, ids)

        monkeypatch.setattr(kv_slots, "prefill", breaks)
    else:
        together = SlotMemory.step

        def breaks_together(memory, tokens, slots, held, **more):
            if held_tokens + 2 in held:
                raise RuntimeError("no such token")
            return together(memory, tokens, slots, held, **more)

        monkeypatch.setattr(SlotMemory, "step", breaks_together)
    with scheduled(model) as scheduler:
        with held(scheduler):
            bad = Asked(scheduler, bad_work)
            good = [Asked(scheduler, to_write(model, text, 8)) for text in texts]
        assert str(bad.error) == "no such token"
        assert [one.text for one in good] == expected
        assert len(bad.deltas) == 3


def test_a_request_that_cannot_be_taken_fails_alone(model, monkeypatch):
    add = EmbeddingQueue.add

    def breaks(queue, queued, request):
        if len(request.prompts) == 2:
            raise MemoryError("no memory for its vectors")
        add(queue, queued, request)

    monkeypatch.setattr(EmbeddingQueue, "add", breaks)
    with scheduled(model) as scheduler:
        with held(scheduler):
            bad = Asked(scheduler, texts_of([8, 9]))
            good = Asked(scheduler, texts_of([8]))
        assert str(bad.error) == "no memory for its vectors"
        assert good.value.shape == (1, 48)
        assert scheduler.stats().waiting == scheduler.stats().waiting_tokens == 0


def test_logits_that_are_no_numbers_fail_their_own_request_only(model, monkeypatch):
    read, expected = BatchedSlots.prefill, model.chat("What is water?", max_new_tokens=6)
    read_together = BatchedSlots.prefill_together

    def broken(logits_V, ids):
        return logits_V * float("nan") if len(ids) > 30 else logits_V

    def breaks(self, slot, ids, *, room, **options):
        return broken(read(self, slot, ids, room=room), ids)

    def breaks_together(self, slots, ids):
        return list(map(broken, read_together(self, slots, ids), ids))

    with scheduled(model, max_num_seqs=2) as scheduler:
        monkeypatch.setattr(BatchedSlots, "prefill", breaks)
        monkeypatch.setattr(BatchedSlots, "prefill_together", breaks_together)
        with held(scheduler):
            bad = Asked(scheduler, to_write(model, "cats " * 40, 6))
            good = [Asked(scheduler, to_write(model, "What is water?", 6)) for _ in range(3)]
        assert "logits are not finite" in str(bad.error)
        assert [one.text for one in good] == [expected] * 3


def test_a_text_that_cannot_be_embedded_fails_its_own_request_only(model, monkeypatch):
    vectors = Encoder.vectors

    def breaks(self, batch, **options):
        if any(len(prompt.ids) == 13 for prompt in batch):
            raise RuntimeError("out of memory")
        return vectors(self, batch, **options)

    texts = ["What is water?", "Cats sleep."]
    with scheduled(model) as scheduler:
        monkeypatch.setattr(Encoder, "vectors", breaks)
        with held(scheduler):
            bad = Asked(scheduler, texts_of([13, 14, 15]))
            good = Asked(scheduler, to_embed(model, texts))
        assert str(bad.error) == "out of memory"
        monkeypatch.undo()
        assert np.abs(good.value - model.encode(texts)).max() < 1e-5


def test_a_prompt_that_can_never_fit_is_refused_with_the_numbers(model):
    with scheduled(model, max_model_len=32) as scheduler:
        with pytest.raises(PromptTooLongError, match="has 32 tokens, the server takes 32") as found:
            scheduler.submit(GenerateRequest((5,) * 32, SamplingParams(4)), print)
        assert (found.value.tokens, found.value.limit) == (32, 32)


@pytest.mark.parametrize(
    ("work", "told"),
    [
        (GenerateRequest((), SamplingParams(4)), "the prompt has no tokens"),
        (GenerateRequest((5,), SamplingParams(0)), "max_new_tokens"),
        (GenerateRequest((5,), SamplingParams(4, temperature=float("nan"))), "temperature=nan"),
        (GenerateRequest((5,), SamplingParams(4, top_p=0.0)), "top_p=0.0"),
    ],
)
def test_values_out_of_range_are_refused_at_once(model, work, told):
    with scheduled(model) as scheduler:
        with pytest.raises(InputError, match=told):
            scheduler.submit(work, print)
        assert scheduler.stats().waiting == 0


def test_no_texts_give_no_vectors(model):
    with scheduled(model) as scheduler:
        assert Asked(scheduler, EmbedRequest(())).value.shape == (0, 48)


@pytest.mark.parametrize(
    ("mode", "work"),
    [
        ("embedding", GenerateRequest((5,), SamplingParams(4))),
        ("generative", texts_of([8])),
    ],
)
def test_a_model_of_one_job_refuses_the_other(tiny_model, mode, work):
    made = GritLM(tiny_model(), mode=mode, dtype="float32", device="cpu")
    with scheduled(made) as scheduler, pytest.raises(ModeError, match=f"mode='{mode}'"):
        scheduler.submit(work, print)


def test_limits_that_do_not_fit_the_model_are_refused(model):
    with pytest.raises(InputError, match="max_model_len=513, the model takes at most 512"):
        Scheduler(model, Limits(max_model_len=513))
    with pytest.raises(InputError, match="max_num_seqs=0; expected 1 or more"):
        Limits(max_num_seqs=0)
