"""Log-probabilities of the tokens of a prompt, collected while it is prefilled.

Shapes: S positions of a chunk, V vocabulary, K likeliest tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gritlm.serve.engine.requests import TokenLogprob

CHUNK = 128  # prompt tokens of a pass: all of their logits are in memory


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
