"""Scheduler: starts the engine loop, submits requests to it and reports its state."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from gritlm.errors import InputError, at_least_one
from gritlm.lm.gritlm import GritLM
from gritlm.serve.engine.engine_loop import EngineLoop, shutdown_error
from gritlm.serve.engine.errors import PromptTooLongError, TooManyRowsError, TooManyTokensError
from gritlm.serve.engine.kv_slots import allocate_kv_slots
from gritlm.serve.engine.limits import Limits
from gritlm.serve.engine.queue import Deliver, QueuedRequest, RequestQueue, count_tokens
from gritlm.serve.engine.requests import (
    EmbedRequest,
    EngineRequest,
    GenerateRequest,
    ModelJob,
    ResumeRequest,
)
from gritlm.serve.engine.slot_protocol import KVSlots

_GRACE_S = 1.0  # seconds after the deadline for a thread inside a forward pass


@dataclass(frozen=True)
class EngineStats:
    """Figures of the engine at one moment.

    Attributes:
        running: requests that the model works on.
        waiting: requests that the model has not begun with.
        waiting_tokens: tokens of the waiting requests.
        slots: KV slots, the most sequences that can run together.
        kv_used: tokens whose keys and values belong to running sequences.
        kv_held: capacity of all KV slots, in tokens.
        steps: decode steps so far.
        drafted: tokens drafted from prompts so far.
        accepted: number of those that were right.
        started: requests that the model has begun with so far.
        queue_s: seconds that these waited, summed.
        silent_s: seconds since the engine loop last polled its queue; 0 while it is idle. The
            value is large only while a single forward pass is long, or when the thread hangs.
    """

    running: int
    waiting: int
    waiting_tokens: int
    slots: int
    kv_used: int
    kv_held: int
    steps: int
    drafted: int
    accepted: int
    started: int
    queue_s: float
    silent_s: float


class RequestHandle:
    """An accepted engine request, as its submitter sees it."""

    def __init__(self, queued: QueuedRequest, queue: RequestQueue) -> None:
        self._queued = queued
        self._queue = queue

    @property
    def begun(self) -> float | None:
        """When the model began with it (``time.monotonic``); None before."""
        return self._queued.started

    def cancel(self) -> None:
        """End the request: its KV slot is free within one step, and no event follows."""
        self._queued.cancelled = True
        self._queue.wake()


class Reservation:
    """Engine requests of one client request that count as waiting before they are submitted.

    Leaving the context gives back a reservation that was not used.
    """

    def __init__(self, scheduler: Scheduler, queue: RequestQueue, count: int) -> None:
        self._scheduler = scheduler
        self._queue = queue
        self._count = count
        self._open = True

    def submit(
        self, requests: Sequence[EngineRequest], deliver: Sequence[Deliver]
    ) -> list[RequestHandle]:
        """Submit the reserved requests, all or none; call it once.

        Args:
            requests: as many requests as were reserved.
            deliver: a function for the events of each; see :meth:`Scheduler.submit`.

        Returns:
            A handle for each request.

        Raises:
            TooManyTokensError: for more tokens than one request may have.
            GritLMError: as :meth:`Scheduler.submit`.
        """
        assert self._open, "a reservation is submitted once"
        assert len(requests) == self._count, "a reservation is submitted as a whole"
        for request in requests:
            self._scheduler.check(request)
        self._scheduler.check_tokens(sum(map(count_tokens, requests)))
        self._open = False
        pairs = zip(requests, deliver, strict=True)
        queued = [
            QueuedRequest(request, receiver, index=index)
            for index, (request, receiver) in enumerate(pairs)
        ]
        self._queue.put(queued)
        return [RequestHandle(each, self._queue) for each in queued]

    def release(self) -> None:
        """Give the reservation back; does nothing once it was submitted."""
        if self._open:
            self._open = False
            self._queue.release(self._count)

    def __enter__(self) -> Reservation:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Scheduler:
    """Continuous batching of sequences and embeddings over one model.

    Greedy answers equal those of :meth:`GritLM.chat`, whatever else runs, in float32; formats with
    fewer digits may round differently in a batch. The scheduler changes nothing in the model.

    Args:
        model: the model; no other code may use it while the scheduler runs.
        limits: limits on running and waiting requests; None for the defaults.

    Attributes:
        max_model_len: most tokens of a prompt and its answer together.
        max_request_tokens: most tokens of one request.

    Raises:
        InputError: for limits that do not fit the model.
    """

    def __init__(self, model: GritLM, limits: Limits | None = None) -> None:
        limits = Limits() if limits is None else limits
        self._model = model
        self._queue = RequestQueue(limits)
        self.max_model_len = limits.length_for(model)
        self.max_request_tokens = max(limits.max_request_tokens, self.max_model_len)
        self._slot_count = limits.max_num_seqs
        self._budget = limits.budget_for(model)
        self._kv_slots: KVSlots | None = None
        self._loop: EngineLoop | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the model's thread, which allocates the KV slots.

        Raises:
            RuntimeError: from torch, when the slots do not fit the memory.
        """
        assert self._thread is None, "a scheduler is started once"
        ready: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._serve, args=(ready,), name="gritlm-model", daemon=True
        )
        self._thread.start()
        ready.result()

    def _serve(self, ready: Future[None]) -> None:
        try:  # in this thread, the only one that multiplies: see runtime.in_a_thread_of_its_own
            if self._model.lm.has_head:
                self._kv_slots = allocate_kv_slots(
                    self._model.lm, self._slot_count, self.max_model_len
                )
            loop = self._loop = EngineLoop(self._model, self._queue, self._kv_slots, self._budget)
        except BaseException as error:
            ready.set_exception(error)
            return
        ready.set_result(None)
        loop.run()

    def stop(self, *, deadline_s: float = 0.0) -> bool:
        """Refuse new requests, finish accepted ones, and wait for the thread to end.

        A request that has not ended by the deadline fails with ``RequestInterruptedError``. The
        caller's thread sends that error when the model's thread does not poll its queue within
        another second; see :attr:`ended`.

        Args:
            deadline_s: seconds that accepted requests get to finish.

        Returns:
            Whether every request ended in time.
        """
        if self._thread is None or self._loop is None:
            return True
        self._loop.deadline = time.monotonic() + deadline_s
        self._queue.drain()
        self._thread.join(deadline_s + _GRACE_S)
        if not self.ended:
            self._queue.abandon(shutdown_error())
        return self.ended and not self._loop.interrupted

    @property
    def ended(self) -> bool:
        """Whether the model's thread has ended, or was never started."""
        return self._thread is None or not self._thread.is_alive()

    def submit(self, request: EngineRequest, deliver: Deliver) -> RequestHandle:
        """Submit a request, from any thread.

        Args:
            request: the request.
            deliver: called on the model's thread with each event; it must not block. A sequence
                ends with an ``OutputDelta`` that has a ``finish_reason``, other requests end with
                ``RequestFinished``, and any request may end with ``RequestFailed``.

        Returns:
            A handle that can cancel the request.

        Raises:
            OverloadedError: when the waiting queue is full.
            DrainingError: when the scheduler is being stopped.
            PromptTooLongError: for a prompt that can never fit.
            InputError: for values out of range.
            ModeError: when the model was loaded without the mode that the request needs.
        """
        with self.reserve() as reservation:
            return reservation.submit([request], [deliver])[0]

    def submit_uncounted(self, job: ModelJob, deliver: Deliver) -> RequestHandle:
        """Submit a job that does not count as a client's request, such as a health probe.

        Args:
            job: the job.
            deliver: as in :meth:`submit`.

        Raises:
            DrainingError: when the scheduler has stopped.
        """
        queued = QueuedRequest(job, deliver)
        self._queue.put_uncounted(queued)
        return RequestHandle(queued, self._queue)

    def reserve(self, count: int = 1) -> Reservation:
        """Reserve room for the engine requests of one client request, from any thread.

        Args:
            count: engine requests; all are reserved or none.

        Raises:
            TooManyError: for a count above the limit of waiting requests.
            OverloadedError: when the waiting queue has no room for all of them.
            DrainingError: when the scheduler is being stopped.
        """
        self._queue.reserve(count)
        return Reservation(self, self._queue, count)

    def check(self, request: EngineRequest) -> None:
        """Refuse an invalid request before it is queued.

        Args:
            request: the request.

        Raises:
            PromptTooLongError: for a prompt that can never fit.
            TooManyRowsError: for more rows than KV slots.
            InputError: for values out of range.
            ModeError: when the model was loaded without the mode that the request needs.
        """
        if isinstance(request, ResumeRequest) and request.rows > self._slot_count:
            raise TooManyRowsError(request.rows, self._slot_count)
        if isinstance(request, ModelJob):
            return
        model = self._model if request.model is None else request.model
        assert model.shares_base_with(self._model), "the engine has one base"
        if isinstance(request, EmbedRequest):
            model.require_embedding()
        else:
            model.require_head()
            tokens = request.sampling.max_new_tokens
            reads_only = isinstance(request, GenerateRequest) and request.prompt_logprobs
            if tokens != 0 or not reads_only:
                at_least_one(tokens, name="max_new_tokens")
            request.sampling.check(model.lm.vocabulary_size)
        if isinstance(request, GenerateRequest):
            if not request.ids:
                raise InputError("the prompt has no tokens; expected at least one")
            if len(request.ids) + min(1, request.sampling.max_new_tokens) > self.max_model_len:
                raise PromptTooLongError(len(request.ids), self.max_model_len)

    def check_tokens(self, tokens: int) -> None:
        """Refuse a request with more tokens than one request may have.

        Args:
            tokens: tokens in all prompts and texts of the request.

        Raises:
            TooManyTokensError: for more than ``max_request_tokens``.
        """
        if tokens > self.max_request_tokens:
            raise TooManyTokensError(tokens, self.max_request_tokens)

    def stats(self) -> EngineStats:
        """Return the figures of the engine, from any thread; they may be microseconds apart."""
        queue = self._queue
        loop = self._loop
        kv_slots = self._kv_slots
        last_poll = loop.last_poll if loop else None
        return EngineStats(
            running=loop.running if loop else 0,
            waiting=queue.waiting,
            waiting_tokens=queue.waiting_tokens,
            slots=kv_slots.slots if kv_slots else 0,
            kv_used=kv_slots.tokens if kv_slots else 0,
            kv_held=kv_slots.slots * kv_slots.capacity if kv_slots else 0,
            steps=loop.steps if loop else 0,
            drafted=loop.drafts[0] if loop else 0,
            accepted=loop.drafts[1] if loop else 0,
            started=queue.started,
            queue_s=queue.queue_s,
            silent_s=0.0 if last_poll is None else time.monotonic() - last_poll,
        )
