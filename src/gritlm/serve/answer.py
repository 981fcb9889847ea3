"""An answer in the making: logits -> a token -> what its client is told.

Shapes: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from gritlm.errors import ModelError
from gritlm.lm.generator import TextStream
from gritlm.lm.gritlm import GritLM
from gritlm.lm.sampling import Sampler, make_sampler
from gritlm.serve.work import Delta, FinishReason, TokenLogprob, Writing


def sampler_of(writing: Writing) -> Sampler:
    """How tokens are drawn.

    Raises:
        InputError: for a value out of range.
    """
    return make_sampler(
        temperature=writing.temperature, top_p=writing.top_p, top_k=writing.top_k,
        seed=writing.seed,
    )  # fmt: skip


class Answer:
    """Tokens are drawn one by one until one of them ends it.

    Args:
        room: most tokens of it.

    Attributes:
        token: the last one that was drawn, which the model has not read.
        ended: nothing follows.
    """

    def __init__(self, model: GritLM, writing: Writing, sampler: Sampler, room: int) -> None:
        self._writing, self._sampler, self._room = writing, sampler, room
        self._stream = TextStream(model.tokenizer, writing.stop)
        self._end_ids: Collection[int] = model.end_ids
        self._written = 0
        self.token, self.ended = -1, False

    def draw(self, logits_V: Tensor) -> Delta:
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
            return Delta(self._stream.close(), finish_reason="stop")
        self._written += 1
        text, reason = self._added()
        self.ended = reason is not None
        return Delta(text, 1, self._logprobs(logits_V), reason)

    def _added(self) -> tuple[str, FinishReason | None]:
        text = self._stream.push(self.token)
        if self._stream.stopped:
            return text, "stop"
        if self._written < self._room:
            return text, None
        text += self._stream.close()
        return text, "stop" if self._stream.stopped else "length"

    def _logprobs(self, logits_V: Tensor) -> tuple[TokenLogprob, ...]:
        """Of the model's own distribution, whatever the temperature."""
        count = self._writing.logprobs
        if count is None:
            return ()
        logprob_V = logits_V.float().log_softmax(dim=-1)
        best = logprob_V.topk(min(count, len(logprob_V)))
        top = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return (TokenLogprob(self.token, float(logprob_V[self.token]), tuple(top)),)
