"""What the thread that owns the model does, turn by turn.

A turn is one step of all running chats, a part of the prompts that wait, and one batch of texts to
embed or one other piece of work. While a batch is read, chats go on between its layers. While
other work or the prompt of an answer from documents is read, chats, texts and short work go on
where it lets them.
"""

from __future__ import annotations

import logging
import time

import torch

from gritlm.lm.gritlm import GritLM
from gritlm.serve.engine.embedding import EmbeddingQueue
from gritlm.serve.engine.errors import RequestCancelledError, RequestInterruptedError
from gritlm.serve.engine.generation import GenerationBatch
from gritlm.serve.engine.jobs import JobQueue
from gritlm.serve.engine.kv_slots import KVSlots
from gritlm.serve.engine.queue import QueuedRequest, RequestQueue
from gritlm.serve.engine.requests import (
    EmbedRequest,
    GenerateRequest,
    ModelJob,
    RequestFailed,
    ResumeRequest,
)

log = logging.getLogger(__name__)


class EngineLoop:
    """Only the model's thread may call it; numbers may be read from anywhere.

    Args:
        places: None for a model without an LM head.
        budget: tokens between two steps.

    Attributes:
        deadline: when all has to be over (``time.monotonic``).
        looked: when the queue was last looked at; None while there is nothing to do.
        left_over: whether something was ended by the deadline.
    """

    def __init__(
        self, model: GritLM, inbox: RequestQueue, places: KVSlots | None, budget: int
    ) -> None:
        self._inbox = inbox
        self._chats = (
            None if places is None else GenerationBatch(model, inbox, places, budget, self._beside)
        )
        self._texts = EmbeddingQueue(model, inbox, budget)
        self._works = JobQueue(inbox)
        self._embedding = self._texts_next = False
        self._chats_ended = self._chats_took = self._paused = 0.0
        self.deadline = float("inf")
        self.looked: float | None = None
        self.left_over = False

    @property
    def running(self) -> int:
        """Requests that the model works on."""
        chats = 0 if self._chats is None else self._chats.running
        return chats + self._texts.reading + self._works.running

    @property
    def steps(self) -> int:
        """Of running chats."""
        return 0 if self._chats is None else self._chats.steps

    def run(self) -> None:
        """Until everything is done and nothing new is taken, or the deadline is over."""
        while not self._over():
            if self._busy:
                self._guarded_turn()
            else:
                self.looked = None
                self._inbox.sleep(None if self.deadline == float("inf") else self.deadline)
        self._end()

    def _over(self) -> bool:
        self._look()
        return self._late or (self._inbox.is_over and not self._busy)

    @property
    def _late(self) -> bool:
        return time.monotonic() >= self.deadline

    @property
    def _busy(self) -> bool:
        return bool(self._chats or self._texts or self._works)

    def _look(self) -> None:
        """Sort in what has arrived."""
        self.looked = time.monotonic()
        for job in self._inbox.take():
            match job.work:
                case EmbedRequest() as work:
                    self._texts.add(job, work)
                case ModelJob() as work:
                    self._works.add(job, work)
                case GenerateRequest() | ResumeRequest() as work:
                    assert self._chats is not None, "refused where it was handed in"
                    self._chats.add(job, work)
        self._works.forget_cancelled()

    def _guarded_turn(self) -> None:
        try:
            self._chats_turn()
            self._others_turn()
        except Exception as error:
            log.exception("the scheduler failed; all that runs or waits ends, and it goes on")
            self._fail(error)

    def _chats_turn(self) -> None:
        if self._chats:
            started = time.perf_counter()
            self._chats.turn()
            self._chats_ended = time.perf_counter()
            self._chats_took = min(self._chats_ended - started, self._chats.turn_s)

    def _others_turn(self) -> None:
        """Texts and other work take turns."""
        if self._works and not (self._texts_next and self._texts):
            self._texts_next = True
            self._works.turn(self._beside)
        else:
            self._texts_next = False
            self._embed()

    def _embed(self) -> None:
        if self._embedding:  # within a batch, in which somebody begins a prompt
            return
        self._embedding = True
        self._paused = time.perf_counter()
        try:
            self._texts.turn(self._pause)
        finally:
            self._embedding = False

    def _pause(self) -> None:
        """Between layers: chats, before as much time has gone by as a turn of theirs takes."""
        self._look()
        self._refuse_late()
        now = time.perf_counter()
        layer_s = now - self._paused
        self._paused = now
        if self._chats and now - self._chats_ended + layer_s > self._chats_took:
            with torch.inference_mode(False):  # whoever begins a prompt expects the usual mode
                self._chats_turn()
            self._paused = time.perf_counter()

    def _beside(self, job: QueuedRequest) -> None:
        """Where the work of a job lets others go on."""
        self._look()
        if job.cancelled:
            raise RequestCancelledError
        self._refuse_late()
        with torch.inference_mode(False):  # others expect the usual mode
            self._chats_turn()
            self._embed()
            self._works.turn_beside(self._beside)

    def _refuse_late(self) -> None:
        if self._late:
            self.left_over = True
            raise cut_off()

    def _fail(self, error: Exception) -> None:
        if self._chats is not None:
            self._chats.fail(error)
        self._texts.fail(error)
        self._works.fail(error)

    def _end(self) -> None:
        """Nobody is left without an answer."""
        for job in self._inbox.close():
            self._inbox.dropped(job)
            job.send(RequestFailed(cut_off()))
            self.left_over = True
        self.left_over |= self._busy
        self._fail(cut_off())
        self.looked = None


def cut_off() -> RequestInterruptedError:
    return RequestInterruptedError("the server was shut down before this request had ended")
