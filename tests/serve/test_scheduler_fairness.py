"""Nobody takes what belongs to others: places, turns, slots, and the model's thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from gritlm import GritLM
from gritlm.lm.sampling import SamplingParams
from gritlm.serve.engine.errors import OverloadedError, TooManyError
from gritlm.serve.engine.limits import Limits
from gritlm.serve.engine.queue import QueuedRequest, RequestQueue
from gritlm.serve.engine.requests import ModelJob, OutputDelta, ResumeRequest
from gritlm.serve.engine.scheduler import Scheduler
from tests.serve.asking import Asked, endless, held, scheduled, texts_of, to_write

SOON_S = 10.0


@pytest.fixture(scope="module")
def model(tiny_model) -> GritLM:
    return endless(tiny_model)


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + SOON_S
    while not true():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.001)


def test_places_of_a_request_are_kept_together_or_not_at_all(model):
    with scheduled(model, max_waiting=4) as scheduler:
        with scheduler.reserve(3):
            with pytest.raises(OverloadedError, match="3 requests wait already, at most 4"):
                scheduler.reserve(2)
            assert scheduler.stats().waiting == 3
        assert scheduler.stats().waiting == 0


def test_more_works_than_may_ever_wait_are_refused_with_the_numbers(model):
    told = r"for 5 answers .* at most 4 in one request"
    with scheduled(model, max_waiting=4) as scheduler, pytest.raises(TooManyError, match=told):
        scheduler.reserve(5)


def test_of_works_with_too_many_tokens_none_is_taken(model):
    with scheduled(model, max_waiting_tokens=60) as scheduler, held(scheduler):
        Asked(scheduler, texts_of([40]))
        works = [texts_of([15]), texts_of([15])]
        with scheduler.reserve(2) as place, pytest.raises(OverloadedError):
            place.submit(works, [print, print])
        assert scheduler.stats().waiting == 1
        assert scheduler.stats().waiting_tokens == 40


def test_who_drains_is_woken_when_an_announced_request_is_refused():
    inbox = RequestQueue(Limits(max_waiting_tokens=10))
    inbox.reserve(2)
    inbox.put([QueuedRequest(texts_of([8]), print)])
    inbox.take()
    with pytest.raises(OverloadedError):
        inbox.put([QueuedRequest(texts_of([8]), print)])
    started = time.monotonic()
    inbox.sleep(started + 5)
    assert time.monotonic() - started < 1


def test_cancelled_work_leaves_the_queue_while_other_work_runs(model):
    with scheduled(model) as scheduler:
        end = threading.Event()

        def long(checkpoint):
            while not end.is_set():
                checkpoint()

        running = Asked(scheduler, ModelJob(long))
        waiting = [Asked(scheduler, ModelJob(lambda _: 0, 5)) for _ in range(3)]
        until(lambda: scheduler.stats().waiting == 3)
        for one in waiting:
            one.ticket.cancel()
        until(lambda: scheduler.stats().waiting == scheduler.stats().waiting_tokens == 0)
        assert not running.is_over
        end.set()


def test_a_short_text_does_not_wait_for_all_texts_of_another_request(model):
    order: list[str] = []
    with scheduled(model, max_num_batched_tokens=64) as scheduler:
        with held(scheduler):
            bulk = Asked(scheduler, texts_of([16] * 200), lambda _: order.append("bulk"))
            longer = Asked(scheduler, texts_of([60]), lambda _: order.append("longer"))
            query = Asked(scheduler, texts_of([5]), lambda _: order.append("query"))
        for one in (bulk, longer, query):
            one.ended()
    assert order == ["longer", "query", "bulk"]


def test_texts_of_one_request_come_back_in_their_order(model):
    with scheduled(model, max_num_batched_tokens=64) as scheduler:
        sizes = [5, 30, 12, 48, 7, 20] * 5
        with held(scheduler):
            mixed = [Asked(scheduler, texts_of(sizes)) for _ in range(3)]
        alone = [Asked(scheduler, texts_of([size])).value[0] for size in sizes]
        for one in mixed:
            assert abs(one.value - alone).max() < 1e-5


def test_many_answers_to_one_request_leave_slots_to_others_who_wait(model):
    order: list[str] = []

    def first(name: str) -> Callable[[object], None]:
        seen: list[object] = []

        def note(event: object) -> None:
            if isinstance(event, OutputDelta) and not seen:
                seen.append(event)
                order.append(name)

        return note

    with scheduled(model, max_num_seqs=2) as scheduler:
        with held(scheduler):
            with scheduler.reserve(6) as place:
                note = first("many")
                many = place.submit(
                    [to_write(model, "Tell me about cats.", 4) for _ in range(6)],
                    [lambda event: note(event), *(first(f"more {n}") for n in range(1, 6))],
                )
            others = [
                Asked(scheduler, to_write(model, f"What is {n}?", 4), first(f"other {n}"))
                for n in range(2)
            ]
        for one in others:
            one.ended()
        until(lambda: scheduler.stats().running == scheduler.stats().waiting == 0)
        assert len(many) == 6
    assert order[:3] == ["many", "other 0", "other 1"]
    assert order[3:] == [f"more {n}" for n in range(1, 6)]


def test_later_requests_do_not_keep_the_second_answer_waiting_for_ever(model):
    order: list[str] = []
    with scheduled(model, max_num_seqs=1) as scheduler:
        with held(scheduler):
            with scheduler.reserve(2) as place:
                place.submit(
                    [to_write(model, "Tell me about cats.", 1) for _ in range(2)],
                    [lambda _: None, lambda _: order.append("second")],
                )
            others = [
                Asked(
                    scheduler, to_write(model, f"What is {n}?", 1), lambda _: order.append("other")
                )
                for n in range(6)
            ]
        for one in others:
            one.ended()
    assert "second" in order[:6]  # each tells twice: started, and its token


def test_short_work_is_done_while_long_work_lets_it(model):
    order: list[str] = []
    with scheduled(model) as scheduler:

        def long(checkpoint):
            until(lambda: scheduler.stats().waiting == 2)
            for _ in range(3):
                checkpoint()
            return 0

        asked = [Asked(scheduler, ModelJob(long), lambda _: order.append("long"))]
        until(lambda: scheduler.stats().running == 1)
        asked.append(Asked(scheduler, ModelJob(lambda _: 1), lambda _: order.append("longer")))
        short = ModelJob(lambda _: 2, nested=True)
        asked.append(Asked(scheduler, short, lambda _: order.append("short")))
        assert [one.value for one in asked] == [0, 1, 2]
    assert order == ["short", "long", "longer"]


def test_short_work_does_not_keep_long_work_waiting_for_ever(model):
    order: list[str] = []
    with scheduled(model) as scheduler:
        with held(scheduler):
            asked = [
                Asked(
                    scheduler, ModelJob(lambda _: 0, nested=True), lambda _: order.append("short")
                )
                for _ in range(4)
            ]
            asked.append(Asked(scheduler, ModelJob(lambda _: 1), lambda _: order.append("long")))
        for one in asked:
            one.ended()
    assert "long" in order[:2]


def test_chats_texts_and_short_work_go_on_while_somebody_reads_a_prompt(model):
    with scheduled(model) as scheduler:
        chat = Asked(scheduler, to_write(model, "Tell me about cats.", 20)).begun()

        def begin(checkpoint):
            texts = Asked(scheduler, texts_of([8, 9]))
            short = Asked(scheduler, ModelJob(lambda _: 1, nested=True))
            while not (chat.is_over and texts.is_over and short.is_over):
                checkpoint()
            raise ValueError("read")

        asked = Asked(scheduler, ResumeRequest(begin, 8, SamplingParams(4)))
        assert str(asked.error) == "read"


def test_a_prompt_that_nobody_wants_any_more_is_not_read_on(model):
    reached = threading.Event()

    def begin(checkpoint):
        reached.set()
        while True:
            checkpoint()

    with scheduled(model, max_num_seqs=1) as scheduler:
        asked = Asked(scheduler, ResumeRequest(begin, 8, SamplingParams(4)))
        assert reached.wait(SOON_S)
        asked.ticket.cancel()
        assert Asked(scheduler, to_write(model, "What is water?", 2)).text
    assert not asked.events


def test_a_thread_in_the_middle_of_something_is_not_waited_for(model):
    scheduler, go_on = Scheduler(model), threading.Event()
    scheduler.start()
    reached = threading.Event()

    def hangs(_):
        reached.set()
        go_on.wait(SOON_S)

    Asked(scheduler, ModelJob(hangs))
    assert reached.wait(SOON_S)
    started = time.monotonic()
    assert not scheduler.stop()
    assert time.monotonic() - started < 3
    assert not scheduler.ended
    go_on.set()
    until(lambda: scheduler.ended)


def test_a_ticket_tells_when_the_model_began(model):
    with scheduled(model) as scheduler:
        before = time.monotonic()
        with held(scheduler):
            asked = Asked(scheduler, texts_of([8]))
            assert asked.ticket.begun is None
            time.sleep(0.02)
        asked.ended()
        assert before + 0.02 < asked.ticket.begun < time.monotonic()
