"""Requests that wait for a KV slot, in the order in which they get one."""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass

from gritlm.serve.engine.queue import QueuedRequest, RequestQueue
from gritlm.serve.engine.requests import GenerateRequest, RequestFailed, ResumeRequest


@dataclass
class WaitingPrompt:
    """A request that waits for a KV slot.

    Attributes:
        queued: the request in the queue.
        request: its content.
        priority: the lower, the sooner.
    """

    queued: QueuedRequest
    request: GenerateRequest | ResumeRequest
    priority: int


class WaitingPrompts:
    """Requests in the order of arrival, further answers to one prompt behind later requests.

    Args:
        queue: counts waiting requests.
        slots: number of KV slots.

    Attributes:
        prompts: the requests, the next one first.
    """

    def __init__(self, queue: RequestQueue, slots: int) -> None:
        self._queue = queue
        self._slots = slots
        self._arrivals = 0
        self.prompts: list[WaitingPrompt] = []

    def add(self, queued: QueuedRequest, request: GenerateRequest | ResumeRequest) -> None:
        """Add a request.

        The second answer to a prompt waits for some requests that arrive soon after, the third for
        more of them.

        Args:
            queued: the request in the queue; its ``index`` is the number of the answer.
            request: its content.
        """
        self._arrivals += queued.index == 0
        priority = self._arrivals + queued.index * self._slots
        insort(
            self.prompts,
            WaitingPrompt(queued, request, priority),
            key=lambda waiting: (waiting.priority, waiting.queued.index),
        )

    @property
    def first(self) -> GenerateRequest | ResumeRequest | None:
        """The request that is next; None without one."""
        return self.prompts[0].request if self.prompts else None

    def pop(self) -> QueuedRequest:
        """Remove and return the request that is next."""
        return self.prompts.pop(0).queued

    def drop_cancelled(self) -> None:
        """Remove cancelled requests."""
        for waiting in self.prompts:
            if waiting.queued.cancelled:
                self._queue.discard(waiting.queued)
        self.prompts = [waiting for waiting in self.prompts if not waiting.queued.cancelled]

    def fail(self, error: Exception) -> None:
        """Fail every request."""
        for waiting in self.prompts:
            self._queue.discard(waiting.queued)
            waiting.queued.send(RequestFailed(error))
        self.prompts.clear()
