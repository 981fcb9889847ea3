"""Other work that waits: one piece at a time, short ones while a long one lets them."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

from gritlm.serve.engine.errors import RequestCancelledError
from gritlm.serve.engine.queue import QueuedRequest, RequestQueue
from gritlm.serve.engine.requests import ModelJob, RequestFailed, RequestFinished

log = logging.getLogger(__name__)

Between = Callable[[QueuedRequest], None]


class JobQueue:
    """Only the model's thread may touch it.

    Attributes:
        running: how many have begun and not ended.
    """

    def __init__(self, inbox: RequestQueue) -> None:
        self._inbox = inbox
        self._short: deque[QueuedRequest] = deque()
        self._long: deque[QueuedRequest] = deque()
        self._long_next = self._beside = False
        self.running = 0

    def __bool__(self) -> bool:
        return bool(self._short or self._long)

    def add(self, job: QueuedRequest, work: ModelJob) -> None:
        (self._short if work.beside else self._long).append(job)

    def forget_cancelled(self) -> None:
        """What nobody wants any more leaves the queue."""
        for jobs in (self._short, self._long):
            if not any(job.cancelled for job in jobs):
                continue
            wanted = [job for job in jobs if not job.cancelled]
            for job in jobs:
                if job.cancelled:
                    self._inbox.dropped(job)
            jobs.clear()
            jobs.extend(wanted)

    def fail(self, error: Exception) -> None:
        """Nothing that waits is done."""
        for jobs in (self._short, self._long):
            for job in jobs:
                self._inbox.dropped(job)
                job.send(RequestFailed(error))
            jobs.clear()

    def turn(self, checkpoint: Between) -> None:
        """One piece; short and long ones take turns."""
        self._long_next = bool(self._long) and (self._long_next or not self._short)
        jobs = self._long if self._long_next else self._short
        self._long_next = not self._long_next
        self._do(jobs.popleft(), checkpoint)

    def turn_beside(self, checkpoint: Between) -> None:
        """One short piece within another one, but not within a short one."""
        if self._beside or not self._short:
            return
        self._beside = True
        try:
            self._do(self._short.popleft(), checkpoint)
        finally:
            self._beside = False

    def _do(self, job: QueuedRequest, checkpoint: Between) -> None:
        assert isinstance(job.work, ModelJob), "nothing else is put here"
        self._inbox.begun(job, job.work.tokens)
        if job.cancelled:
            return
        self.running += 1
        try:
            job.send(RequestFinished(job.work.run(lambda: checkpoint(job))))
        except RequestCancelledError:
            log.info("a piece of work was cancelled while it ran")
        except Exception as error:
            job.send(RequestFailed(error))
        finally:
            self.running -= 1
