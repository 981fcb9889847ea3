"""Sampling parameters, and samplers of token ids from logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gritlm.errors import InputError

Sampler = Callable[[Tensor], int]

_COLDEST = 1e-5  # colder than this is greedy: dividing by it would leave no finite logits


@dataclass(frozen=True)
class SamplingParams:
    """Settings of one generated text.

    Attributes:
        max_new_tokens: most tokens of the text.
        temperature: 0 takes the likeliest token; 1 samples from the model's own distribution.
        top_p: probability of the nucleus that tokens are sampled from; 1 keeps all tokens.
        top_k: number of likeliest tokens that are sampled from; 0 keeps all.
        seed: seed of the sampler; None takes a new one each time.
        stop: strings that end the text and are not part of it.
        logprobs: number of likeliest tokens reported at each position; 0 for the sampled token
            alone, None for no log-probabilities.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None

    def sampler(self) -> Sampler:
        """Return a new sampler with these settings.

        Raises:
            InputError: for a value out of its range.
        """
        return make_sampler(
            temperature=self.temperature, top_p=self.top_p, top_k=self.top_k, seed=self.seed
        )


def make_sampler(
    *, temperature: float = 0.0, top_p: float = 1.0, top_k: int = 0, seed: int | None = None
) -> Sampler:
    """Return a function from logits (V,) to a sampled token id.

    Args:
        temperature: 0 takes the likeliest token; 1 samples from the model's own distribution.
        top_p: sample from the smallest set of tokens that holds this much probability (nucleus
            sampling, Holtzman et al. 2020); 1 keeps all.
        top_k: sample from this many likeliest tokens; 0 keeps all.
        seed: random seed; None for a new one.

    Raises:
        InputError: for a value outside of its range, NaN included.
    """
    if not _is_number(temperature) or not 0 <= temperature < float("inf"):
        raise InputError(f"temperature={temperature!r}; expected a number >= 0")
    if not _is_number(top_p) or not 0 < top_p <= 1:
        raise InputError(f"top_p={top_p!r}; expected 0 < top_p <= 1")
    if not _is_whole(top_k) or top_k < 0:
        raise InputError(f"top_k={top_k!r}; expected a whole number >= 0 (0 keeps all tokens)")
    if seed is not None and (not _is_whole(seed) or not -(2**63) <= seed < 2**64):
        raise InputError(f"seed={seed!r}; expected a whole number of 64 bits")
    if temperature < _COLDEST:
        return lambda logits_V: int(logits_V.argmax())
    generator = torch.Generator()
    generator.seed() if seed is None else generator.manual_seed(seed)

    def sample(logits_V: Tensor) -> int:
        scaled_V = logits_V.float().cpu() / temperature
        kept_V = _nucleus(_likeliest(scaled_V, top_k), top_p)
        return int(torch.multinomial(kept_V.softmax(dim=0), 1, generator=generator))

    return sample


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _likeliest(logits_V: Tensor, top_k: int) -> Tensor:
    if not 0 < top_k < len(logits_V):
        return logits_V
    lowest = logits_V.topk(top_k).values[-1]
    return logits_V.masked_fill(logits_V < lowest, float("-inf"))


def _nucleus(logits_V: Tensor, top_p: float) -> Tensor:
    if top_p == 1:
        return logits_V
    sorted_V, order_V = logits_V.sort(descending=True)
    probability_V = sorted_V.softmax(dim=0)
    dropped_V = probability_V.cumsum(dim=0) - probability_V >= top_p
    dropped_V[0] = False  # also where top_p is 0 in float32
    dropped_V = torch.zeros_like(dropped_V).scatter(0, order_V, dropped_V)
    return logits_V.masked_fill(dropped_V, float("-inf"))
