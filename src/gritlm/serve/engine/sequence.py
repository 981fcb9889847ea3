"""An answer in the making: logits -> a token -> what its client is told.

Shapes: V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

import torch
from torch import Tensor

from gritlm.errors import ModelError
from gritlm.lm.generator import TextStream
from gritlm.lm.gritlm import GritLM
from gritlm.lm.sampling import Sampler, SamplingParams
from gritlm.serve.engine.requests import FinishReason, OutputDelta, TokenLogprob


class GeneratedSequence:
    """Tokens are drawn one by one until one of them ends it.

    Args:
        room: most tokens of it.

    Attributes:
        token: the last one that was drawn, which the model has not read.
        ended: nothing follows.
    """

    def __init__(self, model: GritLM, writing: SamplingParams, sampler: Sampler, room: int) -> None:
        self._writing = writing
        self._sampler = sampler
        self._room = room
        self._stream = TextStream(model.tokenizer, writing.stop)
        self._end_ids: Collection[int] = model.end_ids
        self._told = _Told(self._stream)
        self._written = 0
        self.token = -1
        self.ended = False

    def draw(self, logits_V: Tensor) -> OutputDelta:
        """The next token, and what it adds.

        Raises:
            ModelError: for logits that are no numbers.
        """
        if not torch.isfinite(logits_V.max()):  # NaN anywhere, or nothing that can be chosen
            raise ModelError(
                f"the model's logits are no numbers in {logits_V.dtype}; load it with "
                "dtype='float32' or 'bfloat16'"
            )
        self.token = self._sampler(logits_V)
        if self.token in self._end_ids:
            self.ended = True
            text = self._stream.close()
            return OutputDelta(text, 0, self._told.released(text, last=True), "stop")
        self._written += 1
        text, reason = self._added()
        self.ended = reason is not None
        told = self._told.added(text, self._logprobs(logits_V), last=self.ended)
        return OutputDelta(text, 1, told, reason)

    def _added(self) -> tuple[str, FinishReason | None]:
        text = self._stream.push(self.token)
        if self._stream.stopped:
            return text, "stop"
        if self._written < self._room:
            return text, None
        text += self._stream.close()
        return text, "stop" if self._stream.stopped else "length"

    def _logprobs(self, logits_V: Tensor) -> TokenLogprob | None:
        """Of the model's own distribution, whatever the temperature."""
        count = self._writing.logprobs
        if count is None:
            return None
        logprob_V = logits_V.float().log_softmax(dim=-1)
        best = logprob_V.topk(min(count, len(logprob_V)))
        top = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return TokenLogprob(self.token, float(logprob_V[self.token]), tuple(top))


class _Told:
    """Tokens that wait until their text is certain: what a stop string cuts off is not told.

    Places are numbers of characters from the beginning of the answer.
    """

    def __init__(self, stream: TextStream) -> None:
        self._stream = stream
        self._released = self._known = 0
        self._waiting: deque[tuple[int, int | None, TokenLogprob]] = deque()  # from, to

    def added(
        self, text: str, token: TokenLogprob | None, *, last: bool
    ) -> tuple[TokenLogprob, ...]:
        """A token came, and with it a text became certain: those that go out with it."""
        if token is not None:
            self._waiting.append((self._known, None, token))
        return self.released(text, last=last)

    def released(self, text: str, *, last: bool) -> tuple[TokenLogprob, ...]:
        """A text became certain."""
        self._released += len(text)
        known = self._released + self._stream.held
        if known > self._known:  # of characters in pieces, all pieces end here
            self._waiting = deque((a, known if b is None else b, t) for a, b, t in self._waiting)
            self._known = known
        told = []
        while self._waiting and self._goes_out(*self._waiting[0][:2], last=last):
            told.append(self._waiting.popleft()[2])
        return tuple(told)

    def _goes_out(self, start: int, end: int | None, *, last: bool) -> bool:
        if last:  # a token that a stop string cuts in two is told, for a part of it is text
            return not self._stream.stopped or start < self._released
        return end is not None and end <= self._released
