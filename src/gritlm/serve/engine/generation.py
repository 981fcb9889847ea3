"""Continuous batching of sequences: prefill of waiting prompts, decode of all running sequences.

The engine loop adds requests and calls :meth:`GenerationBatch.step` once in each of its steps.

Shapes: V vocabulary, B running sequences.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from itertools import islice

from torch import Tensor

from gritlm.errors import InputError
from gritlm.lm.gritlm import GritLM
from gritlm.serve.engine.drafts import choose_drafts, read_drafts
from gritlm.serve.engine.prefill import PrefilledSequence, PromptPrefill
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
from gritlm.serve.engine.slot_protocol import KVSlots, StepResult

log = logging.getLogger(__name__)


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
        self._kv_slots = kv_slots
        self._prefill = PromptPrefill(
            model, queue, kv_slots, budget, checkpoint, start=self._start, fail=self._fail
        )
        self._running: list[RunningSequence] = []
        self._decode_s = 0.0
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
        return bool(self._with_slot() or self._prefill.waiting.prompts)

    def _with_slot(self) -> list[RunningSequence]:
        return [*self._running, *self._prefill.prefilling]

    def add(self, queued: QueuedRequest, request: GenerateRequest | ResumeRequest) -> None:
        """Queue a request; see :class:`WaitingPrompts`."""
        self._prefill.waiting.add(queued, request)

    def step(self) -> None:
        """Decode one token of every running sequence, then prefill a part of waiting prompts.

        Sequences decode several tokens where drafts of them are right.

        While sequences run, prefill takes about as long as the decode step, so that they keep at
        least half of their speed.
        """
        self.drop_cancelled()
        if self._running:
            self._decode()
        self._prefill.step(self._step_bound_s)

    @property
    def most_tokens(self) -> int:
        """Most tokens of a pass for several requests, after which the sequences decode."""
        return self._prefill.most_tokens(self._step_bound_s)

    @property
    def _step_bound_s(self) -> float | None:
        return self._decode_s if self._running else None

    def drop_cancelled(self) -> None:
        """Remove cancelled requests from the queue and from their slots."""
        self._prefill.waiting.drop_cancelled()
        for sequence in self._with_slot():
            if sequence.queued.cancelled:
                self._close(sequence)

    def fail(self, error: Exception) -> None:
        """Fail every waiting and running request."""
        self._prefill.waiting.fail(error)
        for sequence in self._with_slot():
            self._fail(sequence, error)

    def _decode(self) -> None:
        sequences = list(self._running)
        started = time.perf_counter()
        drafts = choose_drafts(sequences, self._kv_slots, self._model)
        if drafts is None:
            self._step(sequences)
        else:
            self._verify(sequences, drafts)
        self._decode_s = time.perf_counter() - started

    def _step(self, sequences: Sequence[RunningSequence]) -> None:
        """Decode one token of each sequence."""
        slots = [slot for sequence in sequences for slot in sequence.slots]
        tokens = [sequence.drawn.token for sequence in sequences for _ in sequence.slots]
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

    def _go_on(self, sequence: RunningSequence, results: Sequence[StepResult]) -> None:
        """Draw the next token of a sequence, or fail it alone."""
        try:
            logits_V = sequence.logits(results)
        except Exception as error:
            log.exception("a decode step of a sequence failed; its request fails")
            self._fail(sequence, error)
            return
        self._draw(sequence, logits_V)

    def _verify(self, sequences: Sequence[RunningSequence], drafts: Sequence[list[int]]) -> None:
        """Decode sequences by their drafts, each up to the first token that is not drawn."""
        self.steps += 1
        results = read_drafts(sequences, drafts, self._kv_slots)
        for sequence, draft, result in zip(sequences, drafts, results, strict=True):
            if isinstance(result, Exception):
                log.error("the pass over a draft failed; its request fails", exc_info=result)
                self._fail(sequence, result)
                continue
            self._draw_drafted(sequence, draft, result)

    def _draw_drafted(
        self, sequence: RunningSequence, draft: Sequence[int], logits_SV: Tensor
    ) -> None:
        output = sequence.drawn
        self.drafted += len(draft)
        for accepted, logits_V in enumerate(logits_SV):
            self._draw(sequence, logits_V)
            if not any(running is sequence for running in self._running):
                return
            if draft[accepted : accepted + 1] != [output.token]:
                break
            self.accepted += 1
        (slot,) = sequence.slots
        self._kv_slots.drop(slot, len(draft) - accepted)
        output.judge(len(draft), accepted)

    def _start(self, prefilled: PrefilledSequence) -> None:
        """Draw the first token of a prefilled sequence; every decode step includes it from now."""
        sequence, logits_V, prompt_ids, room = prefilled
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
            own = sequence.request.model
            model = self._model if own is None else own
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
        self._prefill.discard(sequence)
        self._running = [running for running in self._running if running is not sequence]
