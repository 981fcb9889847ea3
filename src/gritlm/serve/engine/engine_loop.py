"""Engine loop: the steps of the thread that owns the model, and its queue of model jobs.

A step decodes one token of all running sequences, prefills a part of the waiting prompts, and runs
one batch of texts to embed or one other model job. While a batch is embedded, sequences go on
between its layers. While a job runs, or the prompt of an answer from documents is prefilled,
sequences, embeddings and short jobs go on at its checkpoints.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable

import torch

from gritlm.lm.gritlm import GritLM
from gritlm.serve.engine.embedding import EmbeddingQueue
from gritlm.serve.engine.errors import RequestCancelledError, RequestInterruptedError
from gritlm.serve.engine.generation import GenerationBatch
from gritlm.serve.engine.joint import Work, run_together, shares_passes
from gritlm.serve.engine.queue import QueuedRequest, RequestQueue, count_tokens
from gritlm.serve.engine.requests import (
    EmbedRequest,
    GenerateRequest,
    ModelJob,
    RequestFailed,
    RequestFinished,
    ResumeRequest,
)
from gritlm.serve.engine.slot_protocol import KVSlots

log = logging.getLogger(__name__)

JobCheckpoint = Callable[[QueuedRequest], None]  # called with the job that runs


class EngineLoop:
    """The loop that runs requests; only the model's thread may call it, any may read its figures.

    Args:
        model: the model.
        queue: where requests arrive.
        kv_slots: memory of running sequences; None for a model without an LM head.
        budget: most prefill or embedding tokens between two decode steps.

    Attributes:
        deadline: time at which everything has to end (``time.monotonic``).
        last_poll: when the queue was last polled; None while the loop is idle.
        interrupted: whether a request was cut off by the deadline.
    """

    def __init__(
        self, model: GritLM, queue: RequestQueue, kv_slots: KVSlots | None, budget: int
    ) -> None:
        self._queue = queue
        self._budget = budget
        self._generation = (
            None
            if kv_slots is None
            else GenerationBatch(model, queue, kv_slots, budget, self._checkpoint)
        )
        self._embedding = EmbeddingQueue(model, queue, budget)
        self._jobs = JobQueue(queue)
        self._in_batch = self._embedding_next = False
        self._generation_ended = self._generation_s = self._resumed = 0.0
        self.deadline = float("inf")
        self.last_poll: float | None = None
        self.interrupted = False

    @property
    def running(self) -> int:
        """Requests that the model works on."""
        sequences = 0 if self._generation is None else self._generation.running
        return sequences + self._embedding.running + self._jobs.running

    @property
    def steps(self) -> int:
        """Decode steps of running sequences so far."""
        return 0 if self._generation is None else self._generation.steps

    @property
    def drafts(self) -> tuple[int, int]:
        """Numbers of drafted tokens so far, and of those that were right."""
        batch = self._generation
        return (0, 0) if batch is None else (batch.drafted, batch.accepted)

    def run(self) -> None:
        """Run until the queue is drained and every request has ended, or the deadline is over."""
        while not self._is_finished():
            if self._busy:
                self._step()
            else:
                self.last_poll = None
                self._queue.sleep(None if self.deadline == float("inf") else self.deadline)
        self._finish()

    def _is_finished(self) -> bool:
        self._poll()
        return self._is_late or (self._queue.is_drained and not self._busy)

    @property
    def _is_late(self) -> bool:
        return time.monotonic() >= self.deadline

    @property
    def _busy(self) -> bool:
        return bool(self._generation or self._embedding or self._jobs)

    @property
    def _most_tokens(self) -> int:
        """Most tokens of a pass of several jobs, so that running sequences wait no longer."""
        return self._budget if self._generation is None else self._generation.most_tokens

    def _poll(self) -> None:
        """Move arrived requests to the queue of their kind."""
        self.last_poll = time.monotonic()
        for queued in self._queue.take():
            try:
                self._add(queued)
            except Exception as error:  # such as no memory for its vectors
                log.exception("a request could not be taken; it fails alone")
                self._queue.discard(queued)
                queued.send(RequestFailed(error))
        self._jobs.drop_cancelled()

    def _add(self, queued: QueuedRequest) -> None:
        match queued.request:
            case EmbedRequest() as request:
                self._embedding.add(queued, request)
            case ModelJob() as job:
                self._jobs.add(queued, job)
            case GenerateRequest() | ResumeRequest() as request:
                assert self._generation is not None, "the scheduler refuses it at submission"
                self._generation.add(queued, request)

    def _step(self) -> None:
        try:
            self._step_generation()
            self._step_embedding_or_job()
        except Exception as error:
            log.exception("an engine step failed; all requests end, and the engine goes on")
            self._fail(error)

    def _step_generation(self) -> None:
        if self._generation:
            started = time.perf_counter()
            self._generation.step()
            self._generation_ended = time.perf_counter()
            elapsed_s = self._generation_ended - started
            self._generation_s = min(elapsed_s, self._generation.step_s)

    def _step_embedding_or_job(self) -> None:
        """Run a job or embed a batch; the two alternate."""
        if self._jobs and not (self._embedding_next and self._embedding):
            self._embedding_next = True
            self._jobs.step(self._checkpoint, most_tokens=self._most_tokens)
        else:
            self._embedding_next = False
            self._step_embedding()

    def _step_embedding(self) -> None:
        if self._in_batch:  # at a checkpoint of a prompt that began between layers of a batch
            return
        self._in_batch = True
        self._resumed = time.perf_counter()
        try:
            self._embedding.step(self._layer_checkpoint)
        finally:
            self._in_batch = False

    def _layer_checkpoint(self) -> None:
        """Let sequences go on between layers, once the time of one of their steps has passed."""
        self._poll()
        self._refuse_late()
        now = time.perf_counter()
        layer_s = now - self._resumed
        self._resumed = now
        if self._generation and now - self._generation_ended + layer_s > self._generation_s:
            with torch.inference_mode(False):  # a prompt that begins here expects the usual mode
                self._step_generation()
            self._resumed = time.perf_counter()

    def _checkpoint(self, queued: QueuedRequest) -> None:
        """Let other requests go on inside a long job.

        Args:
            queued: the job that runs.

        Raises:
            RequestCancelledError: when the job was cancelled.
            RequestInterruptedError: when the deadline is over.
        """
        self._poll()
        if queued.cancelled:
            raise RequestCancelledError
        self._refuse_late()
        with torch.inference_mode(False):  # other requests expect the usual mode
            self._step_generation()
            self._step_embedding()
            self._jobs.step_nested(self._checkpoint, most_tokens=self._most_tokens)

    def _refuse_late(self) -> None:
        if self._is_late:
            self.interrupted = True
            raise shutdown_error()

    def _fail(self, error: Exception) -> None:
        if self._generation is not None:
            self._generation.fail(error)
        self._embedding.fail(error)
        self._jobs.fail(error)

    def _finish(self) -> None:
        """Fail every request that has not ended, so that every client gets a response."""
        for queued in self._queue.close():
            self._queue.discard(queued)
            queued.send(RequestFailed(shutdown_error()))
            self.interrupted = True
        self.interrupted |= self._busy
        self._fail(shutdown_error())
        self.last_poll = None


class JobQueue:
    """Waiting model jobs: one runs at a time, or several that share passes; short ones also inside
    the checkpoints of a long one.

    Only the model's thread may use it.

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

    def step(self, checkpoint: JobCheckpoint, *, most_tokens: int) -> None:
        """Run one job, or several that share passes; short and long jobs alternate.

        Args:
            checkpoint: called with a running job where the job lets other requests go on.
            most_tokens: most tokens of a pass of several jobs.
        """
        self._long_next = bool(self._long) and (self._long_next or not self._short)
        waiting = self._long if self._long_next else self._short
        self._long_next = not self._long_next
        self._run(waiting, checkpoint, most_tokens)

    def step_nested(self, checkpoint: JobCheckpoint, *, most_tokens: int) -> None:
        """Run short jobs inside a checkpoint of another job, but not inside a nested one.

        Args:
            checkpoint: as in :meth:`step`.
            most_tokens: as in :meth:`step`.
        """
        if self._in_nested or not self._short:
            return
        self._in_nested = True
        try:
            self._run(self._short, checkpoint, most_tokens)
        finally:
            self._in_nested = False

    def _run(
        self, waiting: deque[QueuedRequest], checkpoint: JobCheckpoint, most_tokens: int
    ) -> None:
        """Run the next job of a queue, with those behind it that share its passes."""
        group = [_work(waiting.popleft())]
        while waiting:
            joint = [each.joint for each in group]
            following = _work(waiting[0])
            if not shares_passes(joint, following.joint, most_tokens=most_tokens):
                break
            waiting.popleft()
            group.append(following)
        for each in group:
            self._queue.mark_started(each.queued, count_tokens(each.queued.request))
        group = [each for each in group if not each.queued.cancelled]
        self.running += len(group)
        try:
            for each, result in zip(group, run_together(group, checkpoint), strict=True):
                _report(each.queued, result)
        finally:
            self.running -= len(group)


def _work(queued: QueuedRequest) -> Work:
    job = queued.request
    assert isinstance(job, ModelJob), "this queue holds model jobs only"
    return Work(queued, job.run, job.joint)


def _report(queued: QueuedRequest, result: object) -> None:
    if isinstance(result, RequestCancelledError):
        log.info("a model job was cancelled while it ran")
    elif isinstance(result, Exception):
        queued.send(RequestFailed(result))
    else:
        queued.send(RequestFinished(result))


def shutdown_error() -> RequestInterruptedError:
    """Return the error for a request that the shutdown cuts off."""
    return RequestInterruptedError(
        "the server was shut down before this request had ended; send it again"
    )
