"""Where requests arrive, from any thread: counted, refused when too much waits, kept in order."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from weakref import WeakSet

from gritlm.serve.engine.errors import DrainingError, OverloadedError, TooManyError
from gritlm.serve.engine.limits import Limits
from gritlm.serve.engine.requests import EngineEvent, EngineRequest, GenerateRequest, RequestFailed

log = logging.getLogger(__name__)

Deliver = Callable[[EngineEvent], None]

_WINDOW_S = 10.0  # over which it is seen how fast waiting tokens are taken
_LONGEST_WAIT_S = 60.0


class QueuedRequest:
    """A request on its way through the scheduler.

    Attributes:
        number: of the works of one request that came before it.
        cancelled: nobody wants what it comes to.
        begun: when the model began with it (``time.monotonic``); None before.
        waiting_tokens: that the model has not begun to read.
    """

    def __init__(self, work: EngineRequest, deliver: Deliver, *, number: int = 0) -> None:
        self.work = work
        self.deliver = deliver
        self.number = number
        self.arrived = time.monotonic()
        self.cancelled = False
        self.waits = True
        self.begun: float | None = None
        self.waiting_tokens = tokens_of(work)

    def send(self, event: EngineEvent) -> None:
        """Tell its client, who may be gone."""
        if self.cancelled:
            return
        try:
            self.deliver(event)
        except Exception:
            log.exception("an event could not be delivered; its request is cancelled")
            self.cancelled = True


def tokens_of(work: EngineRequest) -> int:
    """Tokens that the model reads for it, about."""
    return len(work.ids) if isinstance(work, GenerateRequest) else work.tokens


class RequestQueue:
    """What has arrived and was not taken by the model's thread yet, and all that waits.

    All of it may be used from any thread.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._wake = threading.Condition()
        self._arrived: deque[QueuedRequest] = deque()
        self._reserved = self._waiting = self._tokens = 0
        self._draining = self._closed = self._disturbed = False
        self._taken: deque[tuple[float, int]] = deque()
        self._known: WeakSet[QueuedRequest] = WeakSet()
        self.started = 0
        self.queue_s = 0.0

    @property
    def waiting(self) -> int:
        """Requests that the model has not begun with, those that are only announced among them."""
        return self._waiting + self._reserved

    @property
    def waiting_tokens(self) -> int:
        return self._tokens

    @property
    def is_over(self) -> bool:
        """Whether nothing can come any more."""
        with self._wake:
            return self._draining and not self._reserved and not self._arrived

    def reserve(self, count: int = 1) -> None:
        """Count works of a request that is on its way: all of them or none.

        Raises:
            TooManyError: for more than may ever wait.
            OverloadedError: when as many works wait as may.
            DrainingError: when nothing new is taken.
        """
        with self._wake:
            self._admit(count)
            self._reserved += count

    def release(self, count: int = 1) -> None:
        """The works that were announced do not come."""
        with self._wake:
            self._withdraw(count)

    def put(self, jobs: Sequence[QueuedRequest]) -> None:
        """In the places that were announced: they come now, and draining does not refuse them.

        Raises:
            OverloadedError: when as many tokens wait as may; the announcement is withdrawn, and
                none of them is taken.
            DrainingError: when the thread is gone.
        """
        with self._wake:
            self._withdraw(len(jobs))
            self._refuse_closed()
            tokens = sum(job.waiting_tokens for job in jobs)
            self._refuse_overload(tokens)
            self._waiting += len(jobs)
            self._tokens += tokens
            self._arrived.extend(jobs)
            self._known.update(jobs)

    def put_aside(self, job: QueuedRequest) -> None:
        """What is no request of a client, and counts as none.

        Raises:
            DrainingError: when the thread is gone.
        """
        with self._wake:
            self._refuse_closed()
            job.waits = False
            job.waiting_tokens = 0
            self._arrived.append(job)
            self._known.add(job)
            self._wake.notify_all()

    def take(self) -> list[QueuedRequest]:
        """All that has arrived since the last call."""
        with self._wake:
            jobs = list(self._arrived)
            self._arrived.clear()
            self._disturbed = False
            return jobs

    def begun(self, job: QueuedRequest, tokens: int) -> None:
        """The model reads so many tokens of a request."""
        with self._wake:
            now = time.monotonic()
            if job.begun is None:
                job.begun = now
            if job.waits:
                job.waits = False
                self._waiting -= 1
                self.started += 1
                self.queue_s += now - job.arrived
            tokens = min(tokens, job.waiting_tokens)
            job.waiting_tokens -= tokens
            self._tokens -= tokens
            self._taken.append((now, tokens))
            while self._taken[0][0] < now - _WINDOW_S:
                self._taken.popleft()

    def dropped(self, job: QueuedRequest) -> None:
        """Nothing more of a request is read."""
        with self._wake:
            self._waiting -= job.waits
            self._tokens -= job.waiting_tokens
            job.waits = False
            job.waiting_tokens = 0

    def disturb(self) -> None:
        """Wake the model's thread: something has changed."""
        with self._wake:
            self._disturbed = True
            self._wake.notify_all()

    def drain(self) -> None:
        """Take nothing new from now on, but what was announced."""
        with self._wake:
            self._draining = self._disturbed = True
            self._wake.notify_all()

    def close(self) -> list[QueuedRequest]:
        """Nothing is taken any more; what has arrived in the last moment."""
        with self._wake:
            self._draining = self._closed = True
            jobs = list(self._arrived)
            self._arrived.clear()
            return jobs

    def abandon(self, error: Exception) -> None:
        """All who still wait for the model's thread, which does not answer, are told; who has got
        everything is not there any more."""
        with self._wake:
            self._draining = self._closed = True
            known = list(self._known)
        for job in known:
            job.send(RequestFailed(error))
            job.cancelled = True

    def sleep(self, until: float | None = None) -> None:
        """Until something arrives or changes.

        Args:
            until: at most to this time (``time.monotonic``).
        """
        with self._wake:
            left = None if until is None else max(0.0, until - time.monotonic())
            if not self._arrived and not self._disturbed:
                self._wake.wait(left)

    def _admit(self, count: int) -> None:
        limit = self._limits.max_waiting
        if self._draining:
            raise DrainingError("the server is shutting down and takes nothing new")
        if count > limit:
            raise TooManyError(count, limit)
        if self.waiting + count > limit:
            raise self._overload(f"{self.waiting} requests", limit)

    def _withdraw(self, count: int) -> None:
        self._reserved -= count
        self._disturbed = True  # who drains waits for this too
        self._wake.notify_all()

    def _refuse_closed(self) -> None:
        if self._closed:
            raise DrainingError("the server is shut down")

    def _refuse_overload(self, tokens: int) -> None:
        limit = self._limits.max_waiting_tokens
        if tokens > self._limits.share and self._tokens and self._tokens + tokens > limit:
            raise self._overload(f"requests of {self._tokens} tokens", limit)

    def _overload(self, waiting: str, limit: int) -> OverloadedError:
        retry_after_s = self._time_to_empty()
        return OverloadedError(
            f"{waiting} wait already, at most {limit} may; try again in {retry_after_s:.0f} s",
            retry_after_s=retry_after_s,
        )

    def _time_to_empty(self) -> float:
        """Seconds until what waits now is read, by the pace of the last seconds; 1 to 60."""
        tokens = sum(tokens for _, tokens in self._taken)
        if not tokens:
            return 1.0
        span = max(1.0, time.monotonic() - self._taken[0][0])
        return min(_LONGEST_WAIT_S, max(1.0, self._tokens * span / tokens))
