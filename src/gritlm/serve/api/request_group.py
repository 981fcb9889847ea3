"""The engine requests of one HTTP request: submission, events, cancellation, metrics."""

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
from gritlm.serve.request_trace import TRACE, EngineStages

_BURST_S = 0.5  # longest wait of an output in a response without a stream


class RequestGroup:
    """The engine requests of one HTTP request, with their events in one order of arrival.

    As a context manager, it cancels the requests that still run at the end.

    Args:
        metrics: metrics of the server.
        endpoint: path of the route, for the metrics.
        choices: sequences generated from one prompt; the tokens of a prompt count once.
        first: whether the HTTP request waits for the model for the first time; its wait is then
            measured.
        last: whether the HTTP request ends with these engine requests; its time is then measured.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        endpoint: str,
        choices: int = 1,
        first: bool = True,
        last: bool = True,
    ) -> None:
        self._metrics = metrics
        self._endpoint = endpoint
        self._choices = choices
        self._first = first
        self._last = last
        self._loop = asyncio.get_running_loop()
        self._events: deque[tuple[int, EngineEvent, float]] = deque()
        self._has_events = asyncio.Event()
        self._in_bursts = False
        self._woken = 0.0
        self._handles: list[RequestHandle] = []
        self._arrived = monotonic()
        self._stages: EngineStages | None = None
        self._waiting: set[int] = set()
        self._latest: dict[int, float] = {}

    def submit(self, reservation: Reservation, requests: Sequence[EngineRequest]) -> None:
        """Submit all requests to the engine.

        Args:
            reservation: places in the queue, one for each request.
            requests: the requests; their index is the index of their events.

        Raises:
            OverloadedError: if too many tokens are waiting; no request is queued then.
        """
        indices = range(len(requests))
        if (trace := TRACE.get()) is not None:
            self._stages = EngineStages(trace, requests, self._choices, monotonic())
        self._handles = reservation.submit(requests, [self._deliver_to(n) for n in indices])
        self._waiting = set(indices) if self._first else set()

    def submit_uncounted(self, scheduler: Scheduler, job: ModelJob) -> None:
        """Submit a job that takes no place in the queue: its request has reserved one already."""
        self._handles = [scheduler.submit_uncounted(job, self._deliver_to(0))]
        self._waiting = {0} if self._first else set()

    def wait_for_all(self) -> None:
        """Wake the event loop for several outputs together, as no client waits for single ones.

        Waking it for each would take the model's thread about as long as the output itself.
        """
        self._in_bursts = True

    def cancel(self) -> None:
        """Cancel the requests that have not finished."""
        for handle in self._handles:
            handle.cancel()

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
        """Yield the index of a request and its event, until all requests have finished.

        Raises:
            Exception: the error with which a request failed.
        """
        running = len(self._handles)
        while running:
            while not self._events:
                self._has_events.clear()
                await self._has_events.wait()
            index, event, at = self._events.popleft()
            if isinstance(event, RequestFailed):
                raise event.error
            self._measure(index, event, at)
            running -= isinstance(event, RequestFinished) or _is_last(event)
            yield index, event

    async def result(self) -> object:
        """Return the result of the only request.

        Raises:
            Exception: the error with which the request failed.
        """
        async for _, event in self.events():
            if isinstance(event, RequestFinished):
                return event.value
        raise AssertionError("a request ended without a result")

    def _deliver_to(self, index: int) -> Deliver:
        def deliver(event: EngineEvent) -> None:
            now = monotonic()
            self._events.append((index, event, now))
            if self._in_bursts and self._can_wait(index, event, now):
                return
            self._woken = now
            with suppress(RuntimeError):  # the loop is closed: no client waits
                self._loop.call_soon_threadsafe(self._has_events.set)

        return deliver

    def _can_wait(self, index: int, event: EngineEvent, now: float) -> bool:
        """Return whether an event is neither the first nor the last output of its sequence."""
        middle = isinstance(event, OutputDelta) and not _is_last(event) and index in self._latest
        return middle and now - self._woken < _BURST_S

    def _measure(self, index: int, event: EngineEvent, at: float) -> None:
        """Update the metrics.

        Args:
            index: index of the request.
            event: an event of that request.
            at: time at which the model's thread delivered it, in seconds; a client that reads
                late does not change it.
        """
        self._measure_wait(index)
        if self._stages is not None:
            self._stages.take(index, event, self._handles[index].begun, at)
        metrics = self._metrics
        if isinstance(event, PrefillFinished):
            if index % self._choices == 0:
                metrics.prompt_tokens.labels(self._endpoint).inc(event.prompt_tokens)
                metrics.cached_tokens.labels(self._endpoint).inc(event.cached_tokens)
        elif isinstance(event, OutputDelta):
            if event.tokens:
                self._measure_tokens(index, event.tokens, at)
            if event.finish_reason is not None:
                metrics.request_seconds.labels(self._endpoint).observe(at - self._arrived)
        elif isinstance(event, RequestFinished) and self._last:
            metrics.request_seconds.labels(self._endpoint).observe(at - self._arrived)

    def _measure_wait(self, index: int) -> None:
        begun = self._handles[index].begun
        if index in self._waiting and begun is not None:
            self._waiting.remove(index)
            self._metrics.queue_time.labels(self._endpoint).observe(begun - self._arrived)

    def _measure_tokens(self, index: int, tokens: int, now: float) -> None:
        metrics = self._metrics
        before = self._latest.get(index)
        metrics.generation_tokens.labels(self._endpoint).inc(tokens)
        if before is None:
            metrics.first_token.labels(self._endpoint).observe(now - self._arrived)
        else:
            metrics.between_tokens.labels(self._endpoint).observe((now - before) / tokens)
        self._latest[index] = now


def _is_last(event: EngineEvent) -> bool:
    return isinstance(event, OutputDelta) and event.finish_reason is not None
