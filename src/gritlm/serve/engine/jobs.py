"""Queue of model jobs: one job at a time, short jobs inside the checkpoints of a long one."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

from gritlm.serve.engine.errors import RequestCancelledError
from gritlm.serve.engine.queue import QueuedRequest, RequestQueue
from gritlm.serve.engine.requests import ModelJob, RequestFailed, RequestFinished

log = logging.getLogger(__name__)

Checkpoint = Callable[[QueuedRequest], None]


class JobQueue:
    """Waiting model jobs; only the model's thread may use it.

    Attributes:
        running: jobs that have begun and not ended.
    """

    def __init__(self, queue: RequestQueue) -> None:
        self._queue = queue
        self._short: deque[QueuedRequest] = deque()
        self._long: deque[QueuedRequest] = deque()
        self._long_next = self._in_nested = False
        self.running = 0

    def __bool__(self) -> bool:
        return bool(self._short or self._long)

    def add(self, queued: QueuedRequest, job: ModelJob) -> None:
        """Append a job to the queue of short or of long jobs."""
        (self._short if job.nested else self._long).append(queued)

    def drop_cancelled(self) -> None:
        """Remove cancelled jobs."""
        for waiting in (self._short, self._long):
            if not any(queued.cancelled for queued in waiting):
                continue
            kept = [queued for queued in waiting if not queued.cancelled]
            for queued in waiting:
                if queued.cancelled:
                    self._queue.discard(queued)
            waiting.clear()
            waiting.extend(kept)

    def fail(self, error: Exception) -> None:
        """Fail every waiting job."""
        for waiting in (self._short, self._long):
            for queued in waiting:
                self._queue.discard(queued)
                queued.send(RequestFailed(error))
            waiting.clear()

    def step(self, checkpoint: Checkpoint) -> None:
        """Run one job; short and long jobs alternate.

        Args:
            checkpoint: called with the running job where the job lets other requests go on.
        """
        self._long_next = bool(self._long) and (self._long_next or not self._short)
        waiting = self._long if self._long_next else self._short
        self._long_next = not self._long_next
        self._run(waiting.popleft(), checkpoint)

    def step_nested(self, checkpoint: Checkpoint) -> None:
        """Run one short job inside a checkpoint of another job, but not inside a nested one.

        Args:
            checkpoint: as in :meth:`step`.
        """
        if self._in_nested or not self._short:
            return
        self._in_nested = True
        try:
            self._run(self._short.popleft(), checkpoint)
        finally:
            self._in_nested = False

    def _run(self, queued: QueuedRequest, checkpoint: Checkpoint) -> None:
        job = queued.request
        assert isinstance(job, ModelJob), "this queue holds model jobs only"
        self._queue.mark_started(queued, job.tokens)
        if queued.cancelled:
            return
        self.running += 1
        try:
            queued.send(RequestFinished(job.run(lambda: checkpoint(queued))))
        except RequestCancelledError:
            log.info("a model job was cancelled while it ran")
        except Exception as error:
            queued.send(RequestFailed(error))
        finally:
            self.running -= 1
