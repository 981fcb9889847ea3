"""Queue of requests from any thread: counted, refused under overload, kept in order."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from weakref import WeakSet

from gritlm.serve.engine.errors import DrainingError, OverloadedError, TooManyError
from gritlm.serve.engine.limits import Limits
from gritlm.serve.engine.requests import (
    EmbedRequest,
    EngineEvent,
    EngineRequest,
    GenerateRequest,
    RequestFailed,
)

log = logging.getLogger(__name__)

Deliver = Callable[[EngineEvent], None]

_WINDOW_S = 10.0  # window over which the throughput of waiting tokens is measured
_LONGEST_WAIT_S = 60.0


class QueuedRequest:
    """An engine request on its way through the scheduler.

    Args:
        request: the request.
        deliver: receives each event of it.
        index: its position among the engine requests of one client request.

    Attributes:
        cancelled: whether the client no longer needs the result.
        started: when the model began with it (``time.monotonic``); None before.
        is_waiting: whether it counts as a waiting request.
        waiting_tokens: tokens that the model has not begun to read.
    """

    def __init__(self, request: EngineRequest, deliver: Deliver, *, index: int = 0) -> None:
        self.request = request
        self.deliver = deliver
        self.index = index
        self.arrived = time.monotonic()
        self.cancelled = False
        self.is_waiting = True
        self.started: float | None = None
        self.waiting_tokens = count_tokens(request)

    def send(self, event: EngineEvent) -> None:
        """Deliver an event to the client, which may have disconnected."""
        if self.cancelled:
            return
        try:
            self.deliver(event)
        except Exception:
            log.exception("an event could not be delivered; its request is cancelled")
            self.cancelled = True


def count_tokens(request: EngineRequest) -> int:
    """Return about how many tokens the model reads for a request."""
    if isinstance(request, GenerateRequest):
        return len(request.ids)
    if isinstance(request, EmbedRequest):
        return sum(len(prompt.ids) for prompt in request.prompts)
    return request.tokens


class RequestQueue:
    """Requests that the engine loop has not taken yet, and counts of all waiting requests.

    Every method may be called from any thread.

    Attributes:
        started: requests that the model has begun with.
        queue_s: seconds that these waited, summed.
    """

    def __init__(self, limits: Limits) -> None:
        self._max_waiting = limits.max_waiting
        self._max_waiting_tokens = limits.max_waiting_tokens
        self._share = limits.share
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
        """Requests that the model has not begun with, reserved ones included."""
        return self._waiting + self._reserved

    @property
    def waiting_tokens(self) -> int:
        """Tokens of the waiting requests."""
        return self._tokens

    @property
    def is_drained(self) -> bool:
        """Whether the queue drains and no further request can arrive."""
        with self._wake:
            return self._draining and not self._reserved and not self._arrived

    def reserve(self, count: int = 1) -> None:
        """Count engine requests of a client request that is still being read: all or none.

        Args:
            count: engine requests to reserve.

        Raises:
            TooManyError: for a count above the limit of waiting requests.
            OverloadedError: when the queue has no room for all of them now.
            DrainingError: when the queue accepts no new requests.
        """
        with self._wake:
            self._admit(count)
            self._reserved += count

    def release(self, count: int = 1) -> None:
        """Give back reserved requests that will not be put."""
        with self._wake:
            self._withdraw(count)

    def put(self, requests: Sequence[QueuedRequest]) -> None:
        """Add as many requests as were reserved; draining does not refuse them.

        Args:
            requests: the requests; their reservation ends, also when they are refused.

        Raises:
            OverloadedError: when too many tokens wait; no request is added.
            DrainingError: when the engine loop has ended.
        """
        with self._wake:
            self._withdraw(len(requests))
            self._refuse_closed()
            tokens = sum(queued.waiting_tokens for queued in requests)
            self._refuse_overload(tokens)
            self._waiting += len(requests)
            self._tokens += tokens
            self._arrived.extend(requests)
            self._known.update(requests)

    def put_uncounted(self, queued: QueuedRequest) -> None:
        """Add internal work, which does not count as a waiting request.

        Args:
            queued: the work.

        Raises:
            DrainingError: when the engine loop has ended.
        """
        with self._wake:
            self._refuse_closed()
            queued.is_waiting = False
            queued.waiting_tokens = 0
            self._arrived.append(queued)
            self._known.add(queued)
            self._wake.notify_all()

    def take(self) -> list[QueuedRequest]:
        """Remove and return all requests that have arrived since the last call."""
        with self._wake:
            arrived = list(self._arrived)
            self._arrived.clear()
            self._disturbed = False
            return arrived

    def mark_started(self, queued: QueuedRequest, tokens: int) -> None:
        """Record that the model reads tokens of a request.

        Args:
            queued: the request; from now on it does not wait.
            tokens: tokens that the model reads now.
        """
        with self._wake:
            now = time.monotonic()
            if queued.started is None:
                queued.started = now
            if queued.is_waiting:
                queued.is_waiting = False
                self._waiting -= 1
                self.started += 1
                self.queue_s += now - queued.arrived
            tokens = min(tokens, queued.waiting_tokens)
            queued.waiting_tokens -= tokens
            self._tokens -= tokens
            self._taken.append((now, tokens))
            while self._taken[0][0] < now - _WINDOW_S:
                self._taken.popleft()

    def discard(self, queued: QueuedRequest) -> None:
        """Stop counting a request whose remaining tokens will not be read."""
        with self._wake:
            self._waiting -= queued.is_waiting
            self._tokens -= queued.waiting_tokens
            queued.is_waiting = False
            queued.waiting_tokens = 0

    def wake(self) -> None:
        """Wake the engine loop, for example after a cancellation."""
        with self._wake:
            self._disturbed = True
            self._wake.notify_all()

    def drain(self) -> None:
        """Refuse new requests from now on; reserved ones may still be put."""
        with self._wake:
            self._draining = self._disturbed = True
            self._wake.notify_all()

    def close(self) -> list[QueuedRequest]:
        """Refuse everything from now on, and return the requests that were not taken."""
        with self._wake:
            self._draining = self._closed = True
            arrived = list(self._arrived)
            self._arrived.clear()
            return arrived

    def abandon(self, error: Exception) -> None:
        """Close the queue and fail every unfinished request, because the engine loop hangs.

        Args:
            error: sent to the clients of these requests.
        """
        with self._wake:
            self._draining = self._closed = True
            known = list(self._known)
        for queued in known:
            queued.send(RequestFailed(error))
            queued.cancelled = True

    def sleep(self, until: float | None = None) -> None:
        """Block until a request arrives or the queue is woken.

        Args:
            until: latest time to return (``time.monotonic``).
        """
        with self._wake:
            left = None if until is None else max(0.0, until - time.monotonic())
            if not self._arrived and not self._disturbed:
                self._wake.wait(left)

    def _admit(self, count: int) -> None:
        limit = self._max_waiting
        if self._draining:
            raise DrainingError(
                "the server is shutting down and takes nothing new; send the request again later"
            )
        if count > limit:
            raise TooManyError(count, limit)
        if self.waiting + count > limit:
            raise self._overload(f"{self.waiting} requests", limit)

    def _withdraw(self, count: int) -> None:
        self._reserved -= count
        self._disturbed = True  # a draining engine loop waits for this too
        self._wake.notify_all()

    def _refuse_closed(self) -> None:
        if self._closed:
            raise DrainingError("the server is shut down; send the request to another one")

    def _refuse_overload(self, tokens: int) -> None:
        limit = self._max_waiting_tokens
        if tokens > self._share and self._tokens and self._tokens + tokens > limit:
            raise self._overload(f"requests of {self._tokens} tokens", limit)

    def _overload(self, waiting: str, limit: int) -> OverloadedError:
        retry_after_s = self._seconds_to_empty()
        return OverloadedError(
            f"{waiting} wait already, at most {limit} may; try again in {retry_after_s:.0f} s",
            retry_after_s=retry_after_s,
        )

    def _seconds_to_empty(self) -> float:
        """Return the seconds until the waiting tokens are read at the recent pace; 1 to 60."""
        tokens = sum(tokens for _, tokens in self._taken)
        if not tokens:
            return 1.0
        span = max(1.0, time.monotonic() - self._taken[0][0])
        return min(_LONGEST_WAIT_S, max(1.0, self._tokens * span / tokens))
