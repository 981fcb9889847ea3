"""Chats: prompts are read piece by piece, and all that are read are written together, step by step.

Shapes: V vocabulary.
"""

from __future__ import annotations

import logging
import time
from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from gritlm.lm.gritlm import GritLM
from gritlm.lm.sampling import Sampler
from gritlm.serve.engine.errors import PromptTooLongError
from gritlm.serve.engine.kv_slots import KVSlots
from gritlm.serve.engine.queue import QueuedRequest, RequestQueue
from gritlm.serve.engine.requests import (
    GenerateRequest,
    PrefillFinished,
    RequestFailed,
    ResumeRequest,
)
from gritlm.serve.engine.sequence import GeneratedSequence
from gritlm.serve.engine.slot_table import KVSlot

if TYPE_CHECKING:
    from gritlm.rag.answer import PrefilledPrompt

log = logging.getLogger(__name__)

_SMALLEST_PIECE = 16  # tokens of a prompt that are worth a pass


@dataclass
class _WaitingPrompt:
    """
    Attributes:
        turn: the lower, the sooner.
    """

    job: QueuedRequest
    work: GenerateRequest | ResumeRequest
    sampler: Sampler
    turn: int


@dataclass
class _RunningSequence:
    """A chat in its slot.

    Attributes:
        unread: tokens of its prompt that the model has not read.
        cached: tokens that were there already.
    """

    job: QueuedRequest
    work: GenerateRequest | ResumeRequest
    sampler: Sampler
    slot: KVSlot
    unread: list[int] = field(default_factory=list)
    cached: int = 0
    answer: GeneratedSequence | None = None


class GenerationBatch:
    """Waiting, read and written chats; only the model's thread may touch them.

    Args:
        budget: most tokens of prompts that are read between two steps.
        beside: called where the prompt of a job that somebody else reads lets others go on; then
            :meth:`turn` makes steps only.
    """

    def __init__(
        self,
        model: GritLM,
        inbox: RequestQueue,
        places: KVSlots,
        budget: int,
        beside: Callable[[QueuedRequest], None],
    ) -> None:
        self._model = model
        self._inbox = inbox
        self._places = places
        self._budget = budget
        self._beside = beside
        self._begins = False
        self._came = 0
        self._waiting: list[_WaitingPrompt] = []
        self._reading: _RunningSequence | None = None
        self._running: list[_RunningSequence] = []
        self._step_s = self._token_s = 0.0
        self.steps = 0

    @property
    def running(self) -> int:
        """Chats that have a slot."""
        return len(self._seated())

    @property
    def turn_s(self) -> float:
        """Seconds of a turn while chats run: a step, and reading for as long."""
        return 2 * self._step_s if self._step_s else float("inf")

    def __bool__(self) -> bool:
        return bool(self._waiting or self._running or self._reading is not None)

    def _seated(self) -> list[_RunningSequence]:
        return [*self._running, *([self._reading] if self._reading is not None else [])]

    def add(self, job: QueuedRequest, work: GenerateRequest | ResumeRequest) -> None:
        """It waits for its turn: other requests that come soon after are served before the second
        answer to a request, more of them before its third."""
        self._came += job.number == 0
        turn = self._came + job.number * self._places.slots
        insort(
            self._waiting,
            _WaitingPrompt(job, work, work.sampling.sampler(), turn),
            key=lambda waiting: (waiting.turn, waiting.job.number),
        )

    def turn(self) -> None:
        """One step of all that run, then a part of the prompts that wait.

        While chats run, reading takes about as long as their step, so that they go on at half of
        their pace at least.
        """
        self.forget_cancelled()
        if self._running:
            self._step()
        if not self._begins:
            self._read()

    def forget_cancelled(self) -> None:
        """Whoever is gone loses the slot, or the place in the queue."""
        for waiting in self._waiting:
            if waiting.job.cancelled:
                self._inbox.dropped(waiting.job)
        self._waiting = [w for w in self._waiting if not w.job.cancelled]
        for chat in self._seated():
            if chat.job.cancelled:
                self._close(chat)

    def fail(self, error: Exception) -> None:
        """All of them end now."""
        for waiting in self._waiting:
            self._inbox.dropped(waiting.job)
            waiting.job.send(RequestFailed(error))
        self._waiting.clear()
        for chat in self._seated():
            self._fail(chat, error)

    def _step(self) -> None:
        chats = list(self._running)
        started = time.perf_counter()
        try:
            logits_BV = self._places.step(
                [chat.slot for chat in chats], [_answer(chat).token for chat in chats]
            )
        except Exception as error:
            log.exception("a step of %d chats failed; all of them end", len(chats))
            for chat in chats:
                self._fail(chat, error)
            return
        self.steps += 1
        for chat, logits_V in zip(chats, logits_BV, strict=True):
            self._draw(chat, logits_V)
        self._step_s = time.perf_counter() - started

    def _read(self) -> None:
        """Prompts in the order in which they came, for about as long as a step took."""
        beside = bool(self._running)
        started = time.perf_counter()
        left = self._budget
        while left > 0 and (self._reading is not None or self._seat()):
            if self._reading is None:  # somebody else has read the prompt: it runs already
                return
            left -= self._read_piece(self._reading, self._piece(left, beside))
            if beside and time.perf_counter() - started >= self._step_s:
                return

    def _piece(self, left: int, beside: bool) -> int:
        """Tokens to read in one pass."""
        if not beside or not self._token_s:
            return left
        return min(left, max(_SMALLEST_PIECE, int(self._step_s / self._token_s)))

    def _seat(self) -> bool:
        """Give the next one a slot; False when nobody waits or no slot is free."""
        if not self._waiting:
            return False
        work = self._waiting[0].work
        slot = self._places.open(work.ids if isinstance(work, GenerateRequest) else ())
        if slot is None:
            return False
        next_one = self._waiting.pop(0)
        chat = _RunningSequence(next_one.job, work, next_one.sampler, slot)
        if isinstance(work, GenerateRequest):
            chat.cached = len(slot.ids)
            chat.unread = list(work.ids[chat.cached :])
            self._inbox.begun(chat.job, len(work.ids))
            self._reading = chat
        else:
            self._inbox.begun(chat.job, work.tokens)
            self._continue(chat, work)
        return True

    def _read_piece(self, chat: _RunningSequence, size: int) -> int:
        """Read some of its prompt; how many tokens that was."""
        ids = chat.unread if self._places.whole else chat.unread[:size]
        room = self._room(chat, chat.work.sampling.max_new_tokens)
        started = time.perf_counter()
        try:
            logits_V = self._places.read(chat.slot, ids, room=room)
        except Exception as error:
            log.exception("a prompt could not be read; its request fails")
            self._fail(chat, error)
            return len(ids)
        self._token_s = (time.perf_counter() - started) / len(ids)
        chat.unread = chat.unread[len(ids) :]
        if not chat.unread:
            self._run(chat, logits_V, room)
        return len(ids)

    def _continue(self, chat: _RunningSequence, work: ResumeRequest) -> None:
        """Whoever asks reads the prompt; from there on it is a chat like any."""
        try:
            begun = self._begun(chat, work)
            tokens = int(begun.cache.get_seq_length())
            if tokens >= self._places.capacity:
                raise PromptTooLongError(tokens, self._places.capacity)
            self._places.adopt(chat.slot, begun)
        except Exception as error:
            self._fail(chat, error)
            return
        chat.cached = begun.reused
        room = self._room(chat, min(begun.room, work.sampling.max_new_tokens))
        self._run(chat, begun.logits_V, room)

    def _begun(self, chat: _RunningSequence, work: ResumeRequest) -> PrefilledPrompt:
        self._begins = True
        try:
            return work.begin(lambda: self._beside(chat.job))
        finally:
            self._begins = False

    def _room(self, chat: _RunningSequence, wanted: int) -> int:
        return min(wanted, self._places.capacity - len(chat.slot.ids) - len(chat.unread))

    def _run(self, chat: _RunningSequence, logits_V: Tensor, room: int) -> None:
        """Its prompt is read: the first token, and from now on a place in every step."""
        self._reading = None
        self._running.append(chat)
        chat.job.send(PrefillFinished(len(chat.slot.ids), chat.cached))
        chat.answer = GeneratedSequence(self._model, chat.work.sampling, chat.sampler, room)
        self._draw(chat, logits_V)

    def _draw(self, chat: _RunningSequence, logits_V: Tensor) -> None:
        answer = _answer(chat)
        try:
            delta = answer.draw(logits_V)
        except Exception as error:
            log.exception("a token could not be drawn; its request fails")
            self._fail(chat, error)
            return
        chat.job.send(delta)
        if answer.ended:
            self._close(chat)

    def _fail(self, chat: _RunningSequence, error: Exception) -> None:
        chat.job.send(RequestFailed(error))
        self._close(chat, sound=False)

    def _close(self, chat: _RunningSequence, *, sound: bool = True) -> None:
        self._places.close(chat.slot, sound=sound)
        if chat is self._reading:
            self._reading = None
        self._running = [other for other in self._running if other is not chat]


def _answer(chat: _RunningSequence) -> GeneratedSequence:
    assert chat.answer is not None, "it runs, so its prompt was read"
    return chat.answer
