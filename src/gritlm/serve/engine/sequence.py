"""A sequence in its KV slots: the prompt while it is prefilled, then the tokens drawn from logits.

Shapes: V vocabulary, S positions of a chunk, K likeliest tokens, B rows of a sequence.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gritlm.errors import ModelError
from gritlm.lm.generator import TextStream
from gritlm.lm.gritlm import GritLM
from gritlm.lm.media.media_prompts import end_of_media, position_offset_of
from gritlm.lm.media.senses import MediaTokens
from gritlm.lm.prompt_lookup import PromptLookup
from gritlm.lm.sampling import SamplingParams, is_complete
from gritlm.serve.engine.queue import QueuedRequest
from gritlm.serve.engine.requests import (
    FinishReason,
    GenerateRequest,
    OutputDelta,
    ResumeRequest,
    TokenLogprob,
)
from gritlm.serve.engine.slot_protocol import KVSlots, StepResult
from gritlm.serve.engine.slot_table import KVSlot

CHUNK = 128  # prompt tokens of a pass that reports them: all of their logits are in memory


@dataclass
class RunningSequence:
    """A request in its KV slots: one, or one for each row of an answer from several prompts.

    Attributes:
        slots: the slots.
        unread: prompt tokens that are not prefilled yet.
        cached: prompt tokens that the slot held already.
        prompt_logprobs: log-probabilities of the prompt; None if they are not reported.
        output: the generated tokens; None until the prompt is prefilled.
        mixture: mixture of the logits (B, V) of its rows to logits (V,); None for a single slot.
    """

    queued: QueuedRequest
    request: GenerateRequest | ResumeRequest
    slots: Sequence[KVSlot]
    unread: list[int] = field(default_factory=list)
    cached: int = 0
    prompt_logprobs: PromptLogprobs | None = None
    output: GeneratedSequence | None = None
    mixture: Callable[[Tensor], Tensor] | None = None

    @property
    def tokens(self) -> int:
        """Number of tokens in its longest slot."""
        return max(len(slot.ids) for slot in self.slots)

    def begin_prompt(self, request: GenerateRequest) -> None:
        """Leave the prompt tokens that the slot does not hold to be prefilled."""
        (slot,) = self.slots
        self.cached = self.tokens
        self.unread = list(request.ids[self.cached :])
        slot.offset = position_offset_of(request.ids[: self.cached], request.media)
        if request.prompt_logprobs:
            self.prompt_logprobs = PromptLogprobs(request.ids, request.sampling.logprobs or 0)

    def next_ids(self, size: int) -> list[int]:
        """Return the prompt tokens to prefill next: ``size``, or more where an image would be cut.

        Args:
            size: most tokens of the pass.
        """
        end = size if self.prompt_logprobs is None else min(size, CHUNK)
        return self.unread[: end_of_media(self.unread, end, self.media)]

    @property
    def media(self) -> tuple[MediaTokens, ...]:
        """The images and sounds of the prompt."""
        return self.request.media if isinstance(self.request, GenerateRequest) else ()

    def prefill(self, kv_slots: KVSlots, ids: list[int], *, room: int) -> Tensor:
        """Prefill the next prompt tokens.

        Args:
            kv_slots: memory of the slot.
            ids: the first of the unread tokens.
            room: most tokens that may follow the prompt.

        Returns:
            The logits of the last of these tokens (V,).
        """
        (slot,) = self.slots
        if self.prompt_logprobs is None:
            media = self.media if any(number < 0 for number in ids) else ()
            return kv_slots.prefill(slot, ids, room=room, media=media)
        logits_SV = kv_slots.prefill(slot, ids, room=room, every=True)
        self.prompt_logprobs.add(logits_SV)
        return logits_SV[-1]

    def room(self, capacity: int, max_new_tokens: int) -> int:
        """Return the most tokens that may be generated in a slot for ``capacity`` tokens."""
        return min(max_new_tokens, capacity - self.tokens - len(self.unread))

    def begin_output(self, model: GritLM, prompt_ids: Sequence[int], *, room: int) -> None:
        """Prepare the drawing of tokens.

        Args:
            model: the model.
            prompt_ids: token ids of the prompt, from which tokens may be drafted.
            room: most tokens that are drawn.
        """
        request = self.request
        self.output = GeneratedSequence(
            model,
            request.sampling,
            _texts(request.ids) if isinstance(request, GenerateRequest) else (),
            room,
            lookup=request.sampling.lookup(_texts(prompt_ids)),
            report_end=self.prompt_logprobs is not None,
        )

    def logits(self, results: Sequence[StepResult]) -> Tensor:
        """Return the logits (V,) of the next token.

        Args:
            results: result of a step for each of its slots.

        Raises:
            Exception: the error of a step, or of the mixture.
        """
        found = []
        for result in results:
            if isinstance(result, Exception):
                raise result
            found.append(result)
        return found[0] if self.mixture is None else self.mixture(torch.stack(found))

    @property
    def drawn(self) -> GeneratedSequence:
        """The generated tokens of a prefilled sequence."""
        assert self.output is not None, "a running sequence is prefilled"
        return self.output


def _texts(ids: Sequence[int]) -> list[int]:
    """Return token ids without those of images and sounds."""
    return [number for number in ids if number >= 0]


class PromptLogprobs:
    """Log-probabilities of the tokens of one prompt; the first token follows no other.

    Args:
        ids: token ids of the prompt.
        count: number of likeliest tokens that are reported at each position.

    Attributes:
        tokens: the tokens so far.
    """

    def __init__(self, ids: Sequence[int], count: int) -> None:
        self._ids = ids
        self._count = count
        self.tokens = [TokenLogprob(ids[0], None)]

    def add(self, logits_SV: Tensor) -> None:
        """Add the tokens after the next S positions of the prompt.

        Args:
            logits_SV: logits of these positions; those of the last position of the prompt, which
                no token of the prompt follows, are ignored.
        """
        start = len(self.tokens)
        next_ids = self._ids[start : start + len(logits_SV)]
        if not next_ids:
            return
        logprob_SV = logits_SV[: len(next_ids)].float().log_softmax(dim=-1)
        next_S1 = torch.tensor(next_ids, device=logprob_SV.device)[:, None]
        chosen = logprob_SV.gather(1, next_S1)[:, 0].tolist()
        best_SK = logprob_SV.topk(min(self._count, logprob_SV.shape[1]))
        likeliest = zip(best_SK.indices.tolist(), best_SK.values.tolist(), strict=True)
        self.tokens += [
            TokenLogprob(token, logprob, tuple(zip(ids, logprobs, strict=True)))
            for token, logprob, (ids, logprobs) in zip(next_ids, chosen, likeliest, strict=True)
        ]


class GeneratedSequence:
    """A sequence that grows by one drawn token a step.

    Args:
        model: the model, for its tokenizer and its end tokens.
        sampling: how tokens are drawn and when the sequence ends.
        prompt_ids: token ids of the prompt, as far as they are known.
        room: most tokens of the sequence.
        lookup: drafts of the next tokens; None for none.
        report_end: whether the log-probability of the end token is reported too.

    Attributes:
        token: the token drawn last, which the model has not read.
        ended: whether the sequence is complete.
    """

    def __init__(
        self,
        model: GritLM,
        sampling: SamplingParams,
        prompt_ids: Sequence[int],
        room: int,
        *,
        lookup: PromptLookup | None = None,
        report_end: bool = False,
    ) -> None:
        self._lookup = lookup
        self._sampling = sampling
        self._end_ids = sampling.all_end_ids(model.end_ids)
        self._sampler = sampling.sampler(prompt_ids=prompt_ids, end_ids=self._end_ids)
        self._room = room
        self._report_end = report_end
        self._stream = TextStream.of(model.tokenizer, sampling)
        self._logprob_buffer = _LogprobBuffer(self._stream)
        self._tokens = 0
        self.token = -1
        self.ended = False

    def draft(self) -> list[int]:
        """Return tokens that may follow the one that was drawn last; one pass can verify them."""
        return [] if self._lookup is None else self._lookup.draft(self._room - self._tokens - 1)

    def expected(self, drafted: int) -> float:
        """Return the expected number of right tokens in a draft of some length."""
        return 0.0 if self._lookup is None else self._lookup.expected(drafted)

    def watch(self, draft: Sequence[int]) -> None:
        """Adapt later drafts by the tokens that are drawn next, where no pass verifies this one."""
        if self._lookup is not None:
            self._lookup.watch(draft)

    def judge(self, drafted: int, accepted: int) -> None:
        """Adapt later drafts to how many tokens of one were right."""
        if self._lookup is not None:
            self._lookup.judge(drafted, accepted)

    def draw(self, logits_V: Tensor) -> OutputDelta:
        """Draw the next token and return the output that it adds.

        Args:
            logits_V: logits of the last position (V,).

        Raises:
            ModelError: for logits that are not finite.
        """
        if not torch.isfinite(logits_V.max()):  # NaN anywhere, or no token that can be drawn
            raise ModelError(
                f"the model's logits are not finite in {logits_V.dtype}; load the model with "
                "dtype='float32' or 'bfloat16'"
            )
        self.token = self._sampler(logits_V)
        if self._lookup is not None:
            self._lookup.add(self.token)
        if self.token in self._end_ids:
            self.ended = True
            text = self._stream.close()
            logprobs = self._logprob_buffer.release(text, last=True)
            if self._report_end and (end := self._logprobs(logits_V)) is not None:
                logprobs = (*logprobs, end)
            stop = self.token if self.token in self._sampling.stop_token_ids else None
            return OutputDelta(text, 0, logprobs, "stop", stop)
        self._tokens += 1
        text, reason = self._decode_text()
        self.ended = reason is not None
        logprobs = self._logprob_buffer.add(text, self._logprobs(logits_V), last=self.ended)
        return OutputDelta(text, 1, logprobs, reason, self._stream.stop_string)

    def _decode_text(self) -> tuple[str, FinishReason | None]:
        text = self._stream.push(self.token)
        if self._stream.stopped:
            return text, "stop"
        complete = is_complete(self._sampler)
        if self._tokens < self._room and not complete:
            return text, None
        text += self._stream.close()
        return text, "stop" if complete or self._stream.stopped else "length"

    def _logprobs(self, logits_V: Tensor) -> TokenLogprob | None:
        """Return log-probabilities of the model's own distribution, whatever the temperature."""
        count = self._sampling.logprobs
        if count is None:
            return None
        logprob_V = logits_V.float().log_softmax(dim=-1)
        best = logprob_V.topk(min(count, len(logprob_V)))
        top = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return TokenLogprob(self.token, float(logprob_V[self.token]), tuple(top))


class _LogprobBuffer:
    """Log-probabilities held back until the text of their tokens is final.

    A token that a stop string cuts off is never released. Offsets are in characters from the
    beginning of the output.
    """

    def __init__(self, stream: TextStream) -> None:
        self._stream = stream
        self._released = self._known = 0
        self._pending: deque[tuple[int, int | None, TokenLogprob]] = deque()  # start, end, token

    def add(self, text: str, token: TokenLogprob | None, *, last: bool) -> tuple[TokenLogprob, ...]:
        """Add a token and the text that became final with it; return the released tokens."""
        if token is not None:
            self._pending.append((self._known, None, token))
        return self.release(text, last=last)

    def release(self, text: str, *, last: bool) -> tuple[TokenLogprob, ...]:
        """Return the tokens whose text is final after this text."""
        self._released += len(text)
        known = self._released + self._stream.held
        if known > self._known:  # tokens that are bytes of one character all end here
            self._pending = deque((a, known if b is None else b, t) for a, b, t in self._pending)
            self._known = known
        released = []
        while self._pending and self._is_final(*self._pending[0][:2], last=last):
            released.append(self._pending.popleft()[2])
        return tuple(released)

    def _is_final(self, start: int, end: int | None, *, last: bool) -> bool:
        if last:  # a token that a stop string cuts in two counts: its first part is output
            return not self._stream.stopped or start < self._released
        return end is not None and end <= self._released
