"""Changes of the logits of one sequence before a token is drawn: mask, bias, penalties.

They are applied in vLLM's order, to a float32 copy of the logits. A sequence without any of them
has no processors and costs nothing.

Shapes: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

import torch
from torch import Tensor

_NEVER = float("-inf")


class LogitsProcessor(Protocol):
    """A change of the logits of one sequence, such as the mask of a grammar.

    Attributes:
        complete: whether the sequence is complete and no token may follow.
    """

    complete: bool

    def apply(self, logits_V: Tensor) -> None:
        """Change the float32 logits (V,) of the next token in place."""

    def accept(self, token: int) -> None:
        """Advance by the token that was drawn."""


class MinTokens:
    """Keeps a sequence from ending before it has enough tokens.

    A token that ends it stays possible where nothing else is, as at the end of a grammar.

    Args:
        count: number of tokens.
        end_ids: token ids that end the sequence.
    """

    complete = False

    def __init__(self, count: int, end_ids: Collection[int]) -> None:
        self._left = count
        self._end_ids = sorted(end_ids)

    def apply(self, logits_V: Tensor) -> None:
        if self._left <= 0 or not self._end_ids:
            return
        ends = torch.tensor(self._end_ids, device=logits_V.device)
        before = logits_V[ends]
        logits_V[ends] = _NEVER
        if logits_V.max() == _NEVER:
            logits_V[ends] = before

    def accept(self, token: int) -> None:
        del token
        self._left -= 1


class LogitBias:
    """Adds a number to the logits of some tokens.

    Args:
        bias: numbers by token id.
    """

    complete = False

    def __init__(self, bias: Mapping[int, float]) -> None:
        self._ids = torch.tensor(list(bias))
        self._bias = torch.tensor(list(bias.values()), dtype=torch.float32)

    def apply(self, logits_V: Tensor) -> None:
        device = logits_V.device
        logits_V[self._ids.to(device)] += self._bias.to(device)

    def accept(self, token: int) -> None:
        del token  # the bias is the same at each position


class Penalties:
    """Makes tokens less likely that are in the prompt or the output already.

    Args:
        repetition: divides positive logits of tokens in prompt or output, and multiplies negative
            ones (Keskar et al. 2019); 1 for no change.
        frequency: subtracted from the logit of a token for each time it is in the output.
        presence: subtracted from the logit of each token in the output.
        prompt_ids: token ids of the prompt.
    """

    complete = False

    def __init__(
        self, *, repetition: float, frequency: float, presence: float, prompt_ids: Collection[int]
    ) -> None:
        self._repetition = repetition
        self._frequency = frequency
        self._presence = presence
        self._prompt_ids = sorted(set(prompt_ids))
        self._counts_V: Tensor | None = None
        self._seen_V: Tensor | None = None

    def apply(self, logits_V: Tensor) -> None:
        counts_V, seen_V = self._state(logits_V)
        if self._repetition != 1:
            scaled_V = torch.where(
                logits_V > 0, logits_V / self._repetition, logits_V * self._repetition
            )
            logits_V.copy_(torch.where(seen_V, scaled_V, logits_V))
        if self._frequency:
            logits_V -= self._frequency * counts_V
        if self._presence:
            logits_V -= self._presence * (counts_V > 0)

    def accept(self, token: int) -> None:
        assert self._counts_V is not None, "a token follows logits"
        assert self._seen_V is not None
        self._counts_V[token] += 1
        self._seen_V[token] = True

    def _state(self, logits_V: Tensor) -> tuple[Tensor, Tensor]:
        """Return how often each token is in the output, and whether prompt or output has it."""
        if self._counts_V is None or self._seen_V is None:
            self._counts_V = torch.zeros_like(logits_V)
            self._seen_V = torch.zeros_like(logits_V, dtype=torch.bool)
            self._seen_V[self._prompt_ids] = True
        return self._counts_V, self._seen_V
