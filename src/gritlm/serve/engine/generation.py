"""Continuous batching of sequences: prefill in chunks, decode of all running sequences together.

The engine loop adds requests and calls :meth:`GenerationBatch.step` once in each of its steps.

Shapes: V vocabulary, B running sequences.
"""

from __future__ import annotations

import logging
import time
from bisect import insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from torch import Tensor

from gritlm.errors import InputError
from gritlm.lm.gritlm import GritLM
from gritlm.serve.engine.errors import PromptTooLongError
from gritlm.serve.engine.kv_slots import KVSlots, StepResult
from gritlm.serve.engine.queue import QueuedRequest, RequestQueue
from gritlm.serve.engine.requests import (
    FinishReason,
    GenerateRequest,
    OutputDelta,
    PrefillFinished,
    RequestFailed,
    ResumeRequest,
)
from gritlm.serve.engine.sequence import RunningSequence
from gritlm.serve.engine.slot_table import KVSlot

if TYPE_CHECKING:
    from gritlm.rag.prefill import PrefilledPrompt

log = logging.getLogger(__name__)

_SMALLEST_CHUNK = 16  # tokens of a prompt that are worth a forward pass


@dataclass
class _WaitingPrompt:
    """A request that waits for a KV slot.

    Attributes:
        priority: the lower, the sooner.
    """

    queued: QueuedRequest
    request: GenerateRequest | ResumeRequest
    priority: int


class GenerationBatch:
    """Waiting, prefilling and running sequences; only the model's thread may use it.

    Args:
        model: the model that generates, unless a request has another one.
        queue: counts waiting requests.
        kv_slots: memory of the running sequences.
        budget: most prompt tokens that are prefilled between two decode steps.
        checkpoint: called with the request whose prompt other code prefills, where that lets other
            requests go on. :meth:`step` only decodes meanwhile.

    Attributes:
        steps: decode steps so far.
        drafted: drafted tokens that were verified so far.
        accepted: number of those that were right.
    """

    def __init__(
        self,
        model: GritLM,
        queue: RequestQueue,
        kv_slots: KVSlots,
        budget: int,
        checkpoint: Callable[[QueuedRequest], None],
    ) -> None:
        self._model = model
        self._queue = queue
        self._kv_slots = kv_slots
        self._budget = budget
        self._checkpoint = checkpoint
        self._is_resuming = False
        self._arrivals = 0
        self._waiting: list[_WaitingPrompt] = []
        self._prefilling: RunningSequence | None = None
        self._running: list[RunningSequence] = []
        self._decode_s = self._token_s = 0.0
        self.steps = 0
        self.drafted = 0
        self.accepted = 0

    @property
    def running(self) -> int:
        """Sequences that have a KV slot."""
        return len(self._with_slot())

    @property
    def step_s(self) -> float:
        """Seconds of a step while sequences run: a decode step, and as much time for prefill."""
        return 2 * self._decode_s if self._decode_s else float("inf")

    def __bool__(self) -> bool:
        return bool(self._waiting or self._running or self._prefilling is not None)

    def _with_slot(self) -> list[RunningSequence]:
        prefilling = [] if self._prefilling is None else [self._prefilling]
        return [*self._running, *prefilling]

    def add(self, queued: QueuedRequest, request: GenerateRequest | ResumeRequest) -> None:
        """Queue a request by arrival, further answers to one prompt behind later requests.

        The second answer to a prompt waits for some requests that arrive soon after, the third for
        more of them.

        Args:
            queued: the request in the queue; its ``index`` is the number of the answer.
            request: its content.
        """
        self._arrivals += queued.index == 0
        priority = self._arrivals + queued.index * self._kv_slots.slots
        insort(
            self._waiting,
            _WaitingPrompt(queued, request, priority),
            key=lambda waiting: (waiting.priority, waiting.queued.index),
        )

    def step(self) -> None:
        """Decode one token of every running sequence, then prefill a part of waiting prompts.

        A sequence that runs alone decodes several tokens where a draft of them is right.

        While sequences run, prefill takes about as long as the decode step, so that they keep at
        least half of their speed.
        """
        self.drop_cancelled()
        if self._running:
            self._decode()
        if not self._is_resuming:
            self._prefill()

    def drop_cancelled(self) -> None:
        """Remove cancelled requests from the queue and from their slots."""
        for waiting in self._waiting:
            if waiting.queued.cancelled:
                self._queue.discard(waiting.queued)
        self._waiting = [waiting for waiting in self._waiting if not waiting.queued.cancelled]
        for sequence in self._with_slot():
            if sequence.queued.cancelled:
                self._close(sequence)

    def fail(self, error: Exception) -> None:
        """Fail every waiting and running request."""
        for waiting in self._waiting:
            self._queue.discard(waiting.queued)
            waiting.queued.send(RequestFailed(error))
        self._waiting.clear()
        for sequence in self._with_slot():
            self._fail(sequence, error)

    def _decode(self) -> None:
        sequences = list(self._running)
        if len(sequences) == 1 and self._verifies_draft(sequences[0]):
            return
        slots = [slot for sequence in sequences for slot in sequence.slots]
        tokens = [sequence.drawn.token for sequence in sequences for _ in sequence.slots]
        started = time.perf_counter()
        try:
            results = iter(self._kv_slots.step(slots, tokens))
        except Exception as error:
            log.exception("a decode step of %d sequences failed; all of them end", len(sequences))
            for sequence in sequences:
                self._fail(sequence, error)
            return
        self.steps += 1
        for sequence in sequences:
            self._go_on(sequence, list(islice(results, len(sequence.slots))))
        self._decode_s = time.perf_counter() - started

    def _go_on(self, sequence: RunningSequence, results: Sequence[StepResult]) -> None:
        """Draw the next token of a sequence, or fail it alone."""
        try:
            logits_V = sequence.logits(results)
        except Exception as error:
            log.exception("a decode step of a sequence failed; its request fails")
            self._fail(sequence, error)
            return
        self._draw(sequence, logits_V)

    def _verifies_draft(self, sequence: RunningSequence) -> bool:
        """Decode a sequence by a draft, whose tokens count up to the first that is not drawn.

        Returns:
            Whether there was a draft.
        """
        output = sequence.drawn
        draft = [] if self._kv_slots.whole or len(sequence.slots) > 1 else output.draft()
        if not draft:
            return False
        (slot,) = sequence.slots
        started = time.perf_counter()
        try:
            ids = [output.token, *draft]
            logits_SV = self._kv_slots.prefill(slot, ids, room=0, every=True)
        except Exception as error:
            log.exception("the pass over a draft failed; its request fails")
            self._fail(sequence, error)
            return True
        self.steps += 1
        self.drafted += len(draft)
        for accepted, logits_V in enumerate(logits_SV):
            self._draw(sequence, logits_V)
            if sequence not in self._running:
                return True
            if draft[accepted : accepted + 1] != [output.token]:
                break
            self.accepted += 1
        self._kv_slots.drop(slot, len(draft) - accepted)
        output.judge(len(draft), accepted)
        self._decode_s = time.perf_counter() - started
        return True

    def _prefill(self) -> None:
        """Prefill waiting prompts in order, for about as long as a decode step takes."""
        decoding = bool(self._running)
        started = time.perf_counter()
        left = self._budget
        while left > 0 and (self._prefilling is not None or self._admit()):
            if self._prefilling is None:  # other code has prefilled the prompt: it runs already
                return
            left -= self._prefill_chunk(self._prefilling, self._chunk_size(left, decoding))
            if decoding and time.perf_counter() - started >= self._decode_s:
                return

    def _chunk_size(self, left: int, decoding: bool) -> int:
        """Return the prompt tokens to prefill in one pass."""
        if not decoding or not self._token_s:
            return left
        return min(left, max(_SMALLEST_CHUNK, int(self._decode_s / self._token_s)))

    def _admit(self) -> bool:
        """Give the next waiting request its slots; return False when none waits or too few are
        free."""
        if not self._waiting:
            return False
        request = self._waiting[0].request
        slots = self._open(request)
        if slots is None:
            return False
        waiting = self._waiting.pop(0)
        sequence = RunningSequence(waiting.queued, request, slots)
        if isinstance(request, GenerateRequest):
            sequence.begin_prompt(request)
            self._queue.mark_started(sequence.queued, len(request.ids))
            self._prefilling = sequence
        else:
            self._queue.mark_started(sequence.queued, request.tokens)
            self._resume(sequence, request)
        return True

    def _open(self, request: GenerateRequest | ResumeRequest) -> Sequence[KVSlot] | None:
        """Return slots for a request; None while too few are free."""
        lm = self._model_of(request).lm
        if isinstance(request, ResumeRequest):
            return self._kv_slots.open_empty(request.rows, lm)
        slot = self._kv_slots.open(request.reusable_ids, lm, request.owner)
        return None if slot is None else (slot,)

    def _model_of(self, request: GenerateRequest | ResumeRequest) -> GritLM:
        return self._model if request.model is None else request.model

    def _prefill_chunk(self, sequence: RunningSequence, size: int) -> int:
        """Prefill the next prompt tokens of a sequence; return their number."""
        ids = sequence.unread if self._kv_slots.whole else sequence.next_ids(size)
        room = sequence.room(self._kv_slots.capacity, sequence.request.sampling.max_new_tokens)
        started = time.perf_counter()
        try:
            logits_V = sequence.prefill(self._kv_slots, ids, room=room)
        except Exception as error:
            log.exception("the prefill of a prompt failed; its request fails")
            self._fail(sequence, error)
            return len(ids)
        self._token_s = (time.perf_counter() - started) / len(ids)
        if not sequence.unread:
            self._start_decoding(sequence, logits_V, sequence.slots[0].ids, room)
        return len(ids)

    def _resume(self, sequence: RunningSequence, request: ResumeRequest) -> None:
        """Let the request prefill its own prompt, and decode it from there on as any other."""
        try:
            prefilled = self._run_begin(sequence, request)
            tokens = int(prefilled.cache.get_seq_length())
            if tokens >= self._kv_slots.capacity:
                raise PromptTooLongError(tokens, self._kv_slots.capacity)
            for slot, cache in zip(sequence.slots, prefilled.caches, strict=True):
                self._kv_slots.adopt(slot, cache)
        except Exception as error:
            self._fail(sequence, error)
            return
        sequence.cached = prefilled.reused
        sequence.mixture = None if prefilled.mixed is None else prefilled.mixed.mixture
        room = sequence.room(
            self._kv_slots.capacity, min(prefilled.room, request.sampling.max_new_tokens)
        )
        self._start_decoding(sequence, prefilled.logits_V, prefilled.ids, room)

    def _run_begin(self, sequence: RunningSequence, request: ResumeRequest) -> PrefilledPrompt:
        """Prefill by the code of the request, in whose checkpoints :meth:`step` only decodes."""
        self._is_resuming = True
        try:
            return request.begin(lambda: self._checkpoint(sequence.queued))
        finally:
            self._is_resuming = False

    def _start_decoding(
        self, sequence: RunningSequence, logits_V: Tensor, prompt_ids: Sequence[int], room: int
    ) -> None:
        """Draw the first token of a prefilled sequence; every decode step includes it from now."""
        self._prefilling = None
        self._running.append(sequence)
        sequence.queued.send(PrefillFinished(sequence.tokens, sequence.cached))
        reported = sequence.prompt_logprobs
        if reported is not None or room == 0:
            prompt = () if reported is None else tuple(reported.tokens)
            ended: FinishReason | None = "length" if room == 0 else None
            sequence.queued.send(OutputDelta("", 0, prompt, ended))
        if room == 0:
            self._close(sequence)
            return
        try:
            model = self._model_of(sequence.request)
            sequence.begin_output(model, prompt_ids, room=room)
        except Exception as error:
            log.exception("a sequence could not begin; its request fails")
            self._fail(sequence, error)
            return
        self._draw(sequence, logits_V)

    def _draw(self, sequence: RunningSequence, logits_V: Tensor) -> None:
        output = sequence.drawn
        try:
            delta = output.draw(logits_V)
        except InputError as error:  # such as a grammar that is too complex
            self._fail(sequence, error)
            return
        except Exception as error:
            log.exception("a token could not be drawn; its request fails")
            self._fail(sequence, error)
            return
        sequence.queued.send(delta)
        if output.ended:
            self._close(sequence)

    def _fail(self, sequence: RunningSequence, error: Exception) -> None:
        sequence.queued.send(RequestFailed(error))
        self._close(sequence, sound=False)

    def _close(self, sequence: RunningSequence, *, sound: bool = True) -> None:
        for slot in sequence.slots:
            self._kv_slots.close(slot, sound=sound)
        if sequence is self._prefilling:
            self._prefilling = None
        self._running = [running for running in self._running if running is not sequence]
