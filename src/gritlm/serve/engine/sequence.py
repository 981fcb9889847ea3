"""A sequence while it is generated: tokens drawn from logits, and the output they add.

Shapes: V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from gritlm.errors import ModelError
from gritlm.lm.generator import TextStream
from gritlm.lm.gritlm import GritLM
from gritlm.lm.sampling import SamplingParams, is_complete
from gritlm.serve.engine.requests import FinishReason, OutputDelta, TokenLogprob


class GeneratedSequence:
    """A sequence that grows by one drawn token a step.

    Args:
        model: the model, for its tokenizer and its end tokens.
        sampling: how tokens are drawn and when the sequence ends.
        prompt_ids: token ids of the prompt, as far as they are known.
        room: most tokens of the sequence.
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
        report_end: bool = False,
    ) -> None:
        self._sampling = sampling
        self._end_ids = sampling.all_end_ids(model.end_ids)
        self._sampler = sampling.sampler(prompt_ids=prompt_ids, end_ids=self._end_ids)
        self._room = room
        self._report_end = report_end
        self._stream = TextStream(model.tokenizer, sampling.stop, ignore=sampling.min_new_tokens)
        self._logprob_buffer = _LogprobBuffer(self._stream)
        self._tokens = 0
        self.token = -1
        self.ended = False

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
