"""The thread that owns the model, as everybody else sees it: requests in, events out."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from gritlm.errors import InputError
from gritlm.lm.gritlm import GritLM
from gritlm.lm.inputs import at_least_one
from gritlm.serve.engine.engine_loop import EngineLoop, cut_off
from gritlm.serve.engine.errors import PromptTooLongError, TooManyTokensError
from gritlm.serve.engine.kv_slots import KVSlots, kv_slots
from gritlm.serve.engine.limits import Limits
from gritlm.serve.engine.queue import Deliver, QueuedRequest, RequestQueue, tokens_of
from gritlm.serve.engine.requests import (
    EmbedRequest,
    EngineRequest,
    GenerateRequest,
    ModelJob,
    ResumeRequest,
)

_PATIENCE_S = 1.0  # for a thread in the middle of something


@dataclass(frozen=True)
class EngineStats:
    """How it stands, in plain numbers.

    Attributes:
        running: requests that the model works on.
        waiting: requests that it has not begun with, and the tokens of their prompts.
        slots: chats that can be written at once.
        kv_used: tokens whose keys and values belong to running chats.
        kv_held: tokens that all slots take.
        steps: that running chats have made.
        started: requests that were begun with, and the seconds they waited together.
        silent_s: since the thread last looked at its queue; 0 while it has nothing to do. It is
            long only while one piece of work is, or when the thread hangs.
    """

    running: int
    waiting: int
    waiting_tokens: int
    slots: int
    kv_used: int
    kv_held: int
    steps: int
    started: int
    queue_s: float
    silent_s: float


class RequestHandle:
    """A work that was taken."""

    def __init__(self, job: QueuedRequest, inbox: RequestQueue) -> None:
        self._job = job
        self._inbox = inbox

    @property
    def begun(self) -> float | None:
        """When the model began with it (``time.monotonic``); None before."""
        return self._job.begun

    def cancel(self) -> None:
        """Nobody wants the rest: its slot is free within one step, and no event follows."""
        self._job.cancelled = True
        self._inbox.disturb()


class Reservation:
    """Works of one request that count as waiting before they are there; leaving the context gives
    their places back."""

    def __init__(self, scheduler: Scheduler, inbox: RequestQueue, count: int) -> None:
        self._scheduler = scheduler
        self._inbox = inbox
        self._count = count
        self._open = True

    def submit(
        self, works: Sequence[EngineRequest], deliver: Sequence[Deliver]
    ) -> list[RequestHandle]:
        """Turn it into works, all of them or none; see :meth:`Scheduler.submit`. It can be turned
        once.

        Raises:
            TooManyTokensError: for more tokens than one request may have.
        """
        assert self._open, "it is turned once"
        assert len(works) == self._count, "each place is turned into one work"
        for work in works:
            self._scheduler.check(work)
        self._scheduler.check_tokens(sum(map(tokens_of, works)))
        self._open = False
        pairs = zip(works, deliver, strict=True)
        jobs = [
            QueuedRequest(work, told, number=number) for number, (work, told) in enumerate(pairs)
        ]
        self._inbox.put(jobs)
        return [RequestHandle(job, self._inbox) for job in jobs]

    def release(self) -> None:
        """The request does not come; harmless when it came."""
        if self._open:
            self._open = False
            self._inbox.release(self._count)

    def __enter__(self) -> Reservation:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Scheduler:
    """Continuous batching of chats and embeddings over one model.

    Greedy answers are those of :meth:`GritLM.chat`, whatever runs beside them (in float32; number
    formats with fewer digits may round otherwise in company). Nothing of the model is changed.

    Args:
        model: used by nobody else while the scheduler runs.

    Raises:
        InputError: for limits that do not fit the model.
    """

    def __init__(self, model: GritLM, limits: Limits | None = None) -> None:
        limits = Limits() if limits is None else limits
        self._model = model
        self._inbox = RequestQueue(limits)
        self.max_model_len = limits.length_for(model)
        self.max_request_tokens = max(limits.max_request_tokens, self.max_model_len)
        self._slots = limits.max_num_seqs
        self._budget = limits.budget_for(model)
        self._places: KVSlots | None = None
        self._loop: EngineLoop | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread; it allocates the slots.

        Raises:
            RuntimeError: from torch, when there is no memory for them.
        """
        assert self._thread is None, "it is started once"
        ready: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._serve, args=(ready,), name="gritlm-model", daemon=True
        )
        self._thread.start()
        ready.result()

    def _serve(self, ready: Future[None]) -> None:
        try:  # here, as nobody else is to multiply: see runtime.in_a_thread_of_its_own
            if self._model.lm.has_head:
                self._places = kv_slots(self._model.lm, self._slots, self.max_model_len)
            loop = self._loop = EngineLoop(self._model, self._inbox, self._places, self._budget)
        except BaseException as error:
            ready.set_exception(error)
            return
        ready.set_result(None)
        loop.run()

    def stop(self, *, deadline_s: float = 0.0) -> bool:
        """Take nothing new, end what was taken, and wait for the thread's end.

        What has not ended within the deadline gets ``Failed(CutOffError)``, from us where the
        thread does not look at its queue within a second more: see :attr:`ended`.

        Returns:
            Whether all of it ended in time.
        """
        if self._thread is None or self._loop is None:
            return True
        self._loop.deadline = time.monotonic() + deadline_s
        self._inbox.drain()
        self._thread.join(deadline_s + _PATIENCE_S)
        if not self.ended:
            self._inbox.abandon(cut_off())
        return self.ended and not self._loop.left_over

    @property
    def ended(self) -> bool:
        """Whether no thread of it uses the model."""
        return self._thread is None or not self._thread.is_alive()

    def submit(self, work: EngineRequest, deliver: Deliver) -> RequestHandle:
        """Take a request, from any thread.

        Args:
            deliver: called on the model's thread with each event; it has to return at once. A
                write ends with a ``Delta`` that has a ``finish_reason``, all else with ``Done``;
                any may end with ``RequestFailed``.

        Raises:
            OverloadedError: when as much waits as may.
            DrainingError: when the scheduler is being stopped.
            TooLongError: for a prompt that can never fit.
            InputError: for values out of range.
            ModeError: when the model was loaded for the other job.
        """
        with self.reserve() as place:
            return place.submit([work], [deliver])[0]

    def submit_aside(self, work: ModelJob, deliver: Deliver) -> RequestHandle:
        """Take what is no request of a client, such as a probe: it counts as none.

        Raises:
            DrainingError: when the scheduler has stopped.
        """
        job = QueuedRequest(work, deliver)
        self._inbox.put_aside(job)
        return RequestHandle(job, self._inbox)

    def reserve(self, count: int = 1) -> Reservation:
        """Count works of a request that is on its way, from any thread: all of them or none.

        Raises:
            TooManyError: for more than may ever wait.
            OverloadedError: when as much waits as may.
            DrainingError: when the scheduler is being stopped.
        """
        self._inbox.reserve(count)
        return Reservation(self, self._inbox, count)

    def check(self, work: EngineRequest) -> None:
        """Refuse what can be seen to be wrong beforehand; as :meth:`submit`."""
        if isinstance(work, EmbedRequest):
            self._model.require_embedding()
        elif isinstance(work, GenerateRequest | ResumeRequest):
            self._model.require_head()
            at_least_one(work.sampling.max_new_tokens, name="max_new_tokens")
            work.sampling.sampler()
        if isinstance(work, GenerateRequest):
            if not work.ids:
                raise InputError("the prompt has no tokens; expected at least one")
            if len(work.ids) >= self.max_model_len:
                raise PromptTooLongError(len(work.ids), self.max_model_len)

    def check_tokens(self, tokens: int) -> None:
        """Refuse a request with more tokens than one request may have.

        Raises:
            TooManyTokensError: with the numbers.
        """
        if tokens > self.max_request_tokens:
            raise TooManyTokensError(tokens, self.max_request_tokens)

    def stats(self) -> EngineStats:
        """How it stands, from any thread; numbers may be of neighbouring moments."""
        inbox = self._inbox
        loop = self._loop
        held = self._places
        looked = loop.looked if loop else None
        return EngineStats(
            running=loop.running if loop else 0,
            waiting=inbox.waiting,
            waiting_tokens=inbox.waiting_tokens,
            slots=held.slots if held else 0,
            kv_used=held.tokens if held else 0,
            kv_held=held.slots * held.capacity if held else 0,
            steps=loop.steps if loop else 0,
            started=inbox.started,
            queue_s=inbox.queue_s,
            silent_s=0.0 if looked is None else time.monotonic() - looked,
        )
