"""Prefill of waiting prompts: in chunks, several prompts in one pass, for a bounded time.

Shapes: V vocabulary.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from gritlm.lm.gritlm import GritLM
from gritlm.serve.engine.errors import PromptTooLongError
from gritlm.serve.engine.joint import Work, run_together, shares_passes
from gritlm.serve.engine.queue import QueuedRequest, RequestQueue, count_tokens
from gritlm.serve.engine.requests import GenerateRequest, ResumeRequest
from gritlm.serve.engine.sequence import RunningSequence
from gritlm.serve.engine.slot_protocol import KVSlots
from gritlm.serve.engine.slot_table import KVSlot, common_prefix
from gritlm.serve.engine.waiting import WaitingPrompts

if TYPE_CHECKING:
    from gritlm.rag.prefill import PrefilledPrompt

log = logging.getLogger(__name__)

_SMALLEST_CHUNK = 16  # tokens of a prompt that are worth a forward pass


class PrefilledSequence(NamedTuple):
    """A sequence before its first token.

    Attributes:
        sequence: the sequence, in its slots.
        logits_V: logits of its first token.
        prompt_ids: token ids of its prompt.
        room: most tokens that may follow.
    """

    sequence: RunningSequence
    logits_V: Tensor
    prompt_ids: Sequence[int]
    room: int


class PromptPrefill:
    """Waiting requests, and those whose prompt is prefilled; only the model's thread may use it.

    Args:
        model: the model that generates, unless a request has another one.
        queue: counts waiting requests.
        kv_slots: memory of the sequences.
        budget: most prompt tokens that are prefilled in a step.
        checkpoint: called with the request whose prompt other code prefills, where that lets other
            requests go on; :meth:`step` does nothing meanwhile.
        start: takes each prefilled sequence.
        fail: ends a sequence with an error.

    Attributes:
        waiting: the requests without a slot.
        prefilling: sequences whose prompt has chunks left to prefill, and a slot.
    """

    def __init__(
        self,
        model: GritLM,
        queue: RequestQueue,
        kv_slots: KVSlots,
        budget: int,
        checkpoint: Callable[[QueuedRequest], None],
        *,
        start: Callable[[PrefilledSequence], None],
        fail: Callable[[RunningSequence, Exception], None],
    ) -> None:
        self._model = model
        self._queue = queue
        self._kv_slots = kv_slots
        self._budget = budget
        self._checkpoint = checkpoint
        self._start = start
        self._fail = fail
        self._is_resuming = False
        self._token_s = 0.0
        self.waiting = WaitingPrompts(queue, kv_slots.slots)
        self.prefilling: list[RunningSequence] = []

    def discard(self, sequence: RunningSequence) -> None:
        """Forget a sequence that was closed."""
        self.prefilling = [each for each in self.prefilling if each is not sequence]

    def step(self, decode_s: float | None) -> None:
        """Prefill waiting prompts in order, for about as long as a decode step takes.

        Args:
            decode_s: seconds of a decode step; None while no sequence decodes.
        """
        if self._is_resuming:
            return
        started = time.perf_counter()
        left = self._budget
        while left > 0:
            size = self._chunk_size(left, decode_s)
            if not self.prefilling and isinstance(self.waiting.first, ResumeRequest):
                self._resume(size)
                return
            chunks = self._chunks(size)
            if not chunks:
                return
            left -= self._prefill(chunks)
            if decode_s is not None and time.perf_counter() - started >= decode_s:
                return

    def most_tokens(self, decode_s: float | None) -> int:
        """Return the most tokens of a pass for several requests, as :meth:`step` has it."""
        return self._chunk_size(self._budget, decode_s)

    def _chunk_size(self, left: int, decode_s: float | None) -> int:
        """Return the prompt tokens to prefill in one pass."""
        if decode_s is None or not self._token_s:
            return left
        return min(left, max(_SMALLEST_CHUNK, int(decode_s / self._token_s)))

    def _chunks(self, size: int) -> list[tuple[RunningSequence, list[int]]]:
        """Return the prompt tokens of the next pass: of one prompt, or of several in their order.

        Args:
            size: most tokens of the pass.
        """
        chunks: list[tuple[RunningSequence, list[int]]] = []
        while True:
            if len(self.prefilling) == len(chunks) and not self._admit():
                return chunks
            sequence = self.prefilling[len(chunks)]
            ids = sequence.unread if self._kv_slots.whole else sequence.next_ids(size)
            chunks.append((sequence, ids))
            size -= len(ids)
            if len(ids) < len(sequence.unread) or size < _SMALLEST_CHUNK:
                return chunks

    def _admit(self) -> bool:
        """Give the next waiting prompt its slot; return False when it does not join the pass.

        No prompt waits, too few slots are free, or a prompt of the same pass has to be prefilled
        before.
        """
        request = self.waiting.first
        if not isinstance(request, GenerateRequest) or not self._joins(request):
            return False
        lm = self._model_of(request).lm
        slot = self._kv_slots.open(request.reusable_ids, lm, request.owner)
        if slot is None:
            return False
        sequence = self._admitted(request, (slot,))
        sequence.begin_prompt(request)
        self.prefilling.append(sequence)
        return True

    def _joins(self, request: GenerateRequest) -> bool:
        """Return whether a prompt shares the next pass with those that are prefilled already.

        A prompt that begins as one of them waits until it finds these tokens in a slot. One with an
        image or a sound has a pass of its own.
        """
        if not self.prefilling:
            return True
        members = [each.request for each in self.prefilling]
        model = self._model_of(request)
        if not self._kv_slots.prefills_together(model.lm):
            return False
        if any(self._model_of(member) is not model for member in members):
            return False
        return not any(map(_is_read_alone, [request, *members])) and not any(
            self._begins_as(request, each) for each in self.prefilling
        )

    def _begins_as(self, request: GenerateRequest, sequence: RunningSequence) -> bool:
        """Return whether a prompt begins with tokens of a sequence that are not prefilled yet."""
        other = sequence.request
        if not isinstance(other, GenerateRequest) or other.owner != request.owner:
            return False
        shared = common_prefix(request.ids[:-1], other.ids)
        return shared - sequence.tokens >= _SMALLEST_CHUNK

    def _admitted(
        self, request: GenerateRequest | ResumeRequest, slots: Sequence[KVSlot]
    ) -> RunningSequence:
        """Return the sequence of the next waiting request, which has its slots now."""
        sequence = RunningSequence(self.waiting.pop(), request, slots)
        self._queue.mark_started(sequence.queued, count_tokens(request))
        return sequence

    def _model_of(self, request: GenerateRequest | ResumeRequest) -> GritLM:
        return self._model if request.model is None else request.model

    def _prefill(self, chunks: Sequence[tuple[RunningSequence, list[int]]]) -> int:
        """Prefill the next tokens of some prompts; return their number."""
        tokens = sum(len(ids) for _, ids in chunks)
        started = time.perf_counter()
        if len(chunks) == 1:
            results = [self._prefill_alone(*chunks[0])]
        else:
            slots = [sequence.slots[0] for sequence, _ in chunks]
            results = list(self._kv_slots.prefill_together(slots, [ids for _, ids in chunks]))
        self._token_s = (time.perf_counter() - started) / tokens
        for (sequence, ids), result in zip(chunks, results, strict=True):
            if isinstance(result, Exception):
                log.error("the prefill of a prompt failed; its request fails", exc_info=result)
                self._fail(sequence, result)
                continue
            sequence.unread = sequence.unread[len(ids) :]
            if not sequence.unread:
                self.discard(sequence)
                room = self._room(sequence, sequence.request.sampling.max_new_tokens)
                self._start(PrefilledSequence(sequence, result, sequence.slots[0].ids, room))
        return tokens

    def _prefill_alone(self, sequence: RunningSequence, ids: list[int]) -> Tensor | Exception:
        room = self._room(sequence, sequence.request.sampling.max_new_tokens)
        try:
            return sequence.prefill(self._kv_slots, ids, room=room)
        except Exception as error:
            return error

    def _room(self, sequence: RunningSequence, max_new_tokens: int) -> int:
        return sequence.room(self._kv_slots.capacity, max_new_tokens)

    def _resume(self, size: int) -> None:
        """Let the next requests prefill their own prompts, which decode as any other from there on.

        Args:
            size: most tokens of a pass of several requests.
        """
        group: list[tuple[RunningSequence, ResumeRequest]] = []
        while isinstance(request := self.waiting.first, ResumeRequest):
            members = [member.joint for _, member in group]
            if members and not shares_passes(members, request.joint, most_tokens=size):
                break
            slots = self._kv_slots.open_empty(request.rows, self._model_of(request).lm)
            if slots is None:
                break
            group.append((self._admitted(request, slots), request))
        self._is_resuming = True
        try:
            works = [Work(sequence.queued, each.begin, each.joint) for sequence, each in group]
            found = run_together(works, self._checkpoint)
        finally:
            self._is_resuming = False
        for (sequence, request), prefilled in zip(group, found, strict=True):
            self._resumed(sequence, request, prefilled)

    def _resumed(
        self,
        sequence: RunningSequence,
        request: ResumeRequest,
        prefilled: PrefilledPrompt | Exception,
    ) -> None:
        """Take over the KV state of a prompt that other code has prefilled."""
        if isinstance(prefilled, Exception):
            self._fail(sequence, prefilled)
            return
        try:
            self._adopt(sequence, prefilled)
        except Exception as error:
            self._fail(sequence, error)
            return
        sequence.cached = prefilled.reused
        sequence.mixture = None if prefilled.mixed is None else prefilled.mixed.mixture
        room = self._room(sequence, min(prefilled.room, request.sampling.max_new_tokens))
        self._start(PrefilledSequence(sequence, prefilled.logits_V, prefilled.ids, room))

    def _adopt(self, sequence: RunningSequence, prefilled: PrefilledPrompt) -> None:
        tokens = int(prefilled.cache.get_seq_length())
        if tokens >= self._kv_slots.capacity:
            raise PromptTooLongError(tokens, self._kv_slots.capacity)
        for slot, cache in zip(sequence.slots, prefilled.caches, strict=True):
            self._kv_slots.adopt(slot, cache)


def _is_read_alone(request: GenerateRequest | ResumeRequest) -> bool:
    return isinstance(request, GenerateRequest) and bool(request.prompt_logprobs or request.media)
