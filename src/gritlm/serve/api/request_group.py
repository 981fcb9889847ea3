"""The works of one request: handed to the model's thread, and what comes back to the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from time import monotonic
from types import TracebackType

from gritlm.serve.engine.queue import Deliver
from gritlm.serve.engine.requests import (
    EngineEvent,
    EngineRequest,
    ModelJob,
    OutputDelta,
    PrefillFinished,
    RequestFailed,
    RequestFinished,
)
from gritlm.serve.engine.scheduler import RequestHandle, Reservation, Scheduler
from gritlm.serve.metrics import Metrics

_BURST_S = 0.5  # at most so long pieces of an answer wait that is wanted as a whole


class RequestGroup:
    """Some works whose events come in one row; leaving the context cancels what still runs.

    Args:
        endpoint: path of the route, for the metrics.
        choices: works of one prompt, which is counted once.
        first: whether the request waits for the model for the first time, so that the wait counts.
        last: whether the request ends with these works, so that its time counts.
    """

    def __init__(
        self,
        meter: Metrics,
        *,
        endpoint: str,
        choices: int = 1,
        first: bool = True,
        last: bool = True,
    ) -> None:
        self._meter = meter
        self._endpoint = endpoint
        self._choices = choices
        self._first = first
        self._last = last
        self._loop = asyncio.get_running_loop()
        self._events: deque[tuple[int, EngineEvent, float]] = deque()
        self._news = asyncio.Event()
        self._bursts = False
        self._woken = 0.0
        self._tickets: list[RequestHandle] = []
        self._arrived = monotonic()
        self._waiting: set[int] = set()
        self._latest: dict[int, float] = {}

    def submit(self, place: Reservation, works: Sequence[EngineRequest]) -> None:
        """Hand all works over, in the places that were kept for them.

        Raises:
            OverloadedError: when too many tokens wait for all of them; then none is taken.
        """
        self._tickets = place.submit(works, [self._deliverer(n) for n in range(len(works))])
        self._waiting = set(range(len(works))) if self._first else set()

    def submit_aside(self, scheduler: Scheduler, work: ModelJob) -> None:
        """Hand over a work of a request that keeps a place for other works, and counts by that."""
        self._tickets = [scheduler.submit_aside(work, self._deliverer(0))]
        self._waiting = {0} if self._first else set()

    def wait_for_all(self) -> None:
        """Nobody looks at single pieces: the event loop is not woken for each of them, which would
        cost the model's thread as much as the piece is worth."""
        self._bursts = True

    def cancel(self) -> None:
        """Let go of the places on the model's thread; what has ended stays as it is."""
        for ticket in self._tickets:
            ticket.cancel()

    def __enter__(self) -> RequestGroup:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cancel()

    async def events(self) -> AsyncIterator[tuple[int, EngineEvent]]:
        """Number of the work and what it handed back, until all have ended.

        Raises:
            Exception: with which a work failed.
        """
        running = len(self._tickets)
        while running:
            while not self._events:
                self._news.clear()
                await self._news.wait()
            index, event, at = self._events.popleft()
            if isinstance(event, RequestFailed):
                raise event.error
            self._measure(index, event, at)
            running -= isinstance(event, RequestFinished) or _is_last(event)
            yield index, event

    async def result(self) -> object:
        """What the only work came to."""
        async for _, event in self.events():
            if isinstance(event, RequestFinished):
                return event.value
        raise AssertionError("a work ended without a result")

    def _deliverer(self, index: int) -> Deliver:
        def deliver(event: EngineEvent) -> None:
            now = monotonic()
            self._events.append((index, event, now))
            if self._bursts and self._can_wait(index, event, now):
                return
            self._woken = now
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._news.set)

        return deliver

    def _can_wait(self, index: int, event: EngineEvent, now: float) -> bool:
        """Whether it is a piece in the middle of an answer that has begun."""
        middle = isinstance(event, OutputDelta) and not _is_last(event) and index in self._latest
        return middle and now - self._woken < _BURST_S

    def _measure(self, index: int, event: EngineEvent, at: float) -> None:
        """
        Args:
            at: when the model's thread handed it over, however late the client takes it.
        """
        self._measure_wait(index)
        meter = self._meter
        if isinstance(event, PrefillFinished):
            if index % self._choices == 0:
                meter.prompt_tokens.labels(self._endpoint).inc(event.prompt_tokens)
                meter.cached_tokens.labels(self._endpoint).inc(event.cached_tokens)
        elif isinstance(event, OutputDelta):
            if event.tokens:
                self._measure_tokens(index, event.tokens, at)
            if event.finish_reason is not None:
                meter.whole.labels(self._endpoint).observe(at - self._arrived)
        elif isinstance(event, RequestFinished) and self._last:
            meter.whole.labels(self._endpoint).observe(at - self._arrived)

    def _measure_wait(self, index: int) -> None:
        begun = self._tickets[index].begun
        if index in self._waiting and begun is not None:
            self._waiting.remove(index)
            self._meter.queue_time.labels(self._endpoint).observe(begun - self._arrived)

    def _measure_tokens(self, index: int, tokens: int, now: float) -> None:
        meter = self._meter
        before = self._latest.get(index)
        meter.generation_tokens.labels(self._endpoint).inc(tokens)
        if before is None:
            meter.first_token.labels(self._endpoint).observe(now - self._arrived)
        else:
            meter.between_tokens.labels(self._endpoint).observe((now - before) / tokens)
        self._latest[index] = now


def _is_last(event: EngineEvent) -> bool:
    return isinstance(event, OutputDelta) and event.finish_reason is not None
