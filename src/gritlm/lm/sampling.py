"""Sampling parameters, and samplers of token ids from logits. Shapes: V vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict, TypeGuard

import torch
from torch import Tensor

from gritlm.errors import InputError, UnknownArgumentError, did_you_mean
from gritlm.lm.logits import LogitBias, LogitsProcessor, MinTokens, Penalties
from gritlm.lm.prompt_lookup import PromptLookup

Sampler = Callable[[Tensor], int]

_COLDEST = 1e-5  # colder than this is greedy: dividing by it would leave no finite logits
_LARGEST_BIAS = 100.0  # as in OpenAI's API
_LARGEST_PENALTY = 2.0  # as in OpenAI's API
_LARGEST_REPETITION = 100.0
_USUAL_NUCLEUS = 1024  # tokens: the likeliest ones are found faster than all are sorted


@dataclass(frozen=True)
class SamplingParams:
    """Settings of one generated text.

    A token is drawn as in vLLM: mask, ``min_new_tokens``, ``logit_bias``, penalties, temperature,
    ``min_p``, ``top_k``, ``top_p``.

    Attributes:
        max_new_tokens: most tokens of the text.
        temperature: 0 takes the likeliest token; 1 samples from the model's own distribution.
        top_p: probability of the nucleus that tokens are sampled from; 1 keeps all tokens.
        top_k: number of likeliest tokens that are sampled from; 0 keeps all.
        seed: seed of the sampler; None takes a new one each time.
        stop: strings that end the text and are not part of it.
        logprobs: number of likeliest tokens reported at each position; 0 for the sampled token
            alone, None for no log-probabilities. They are those of the model, before any of the
            other settings.
        min_p: least probability of the tokens that are sampled from, as a part of the probability
            of the likeliest one; 0 keeps all.
        repetition_penalty: divides the positive logits of tokens in prompt or text, and multiplies
            the negative ones; 1 changes nothing. In an answer from documents, prompts do not count.
        frequency_penalty: subtracted from the logit of a token for each time the text has it.
        presence_penalty: subtracted from the logit of each token that the text has.
        logit_bias: numbers that are added to logits, by token id.
        stop_token_ids: further token ids that end the text and are not part of it.
        ignore_eos: whether the model's own end tokens do not end the text.
        min_new_tokens: tokens before which neither an end token nor a stop string ends the text.
        prompt_lookup_num_tokens: most tokens of a draft, which follows earlier occurrences of
            the last ones in prompt and text, as in transformers; one pass verifies a draft, so that
            quotations are generated faster. The text is the same but for rounding; 0 for no drafts.
        shown_special_ids: ids of special tokens that the text shows; it has no others.
        mask: function that returns a new mask of the tokens that may come next, such as
            ``model.grammar(...).start``. It is applied first.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    min_new_tokens: int = 0
    prompt_lookup_num_tokens: int = 10
    shown_special_ids: tuple[int, ...] = ()
    mask: Callable[[], LogitsProcessor] | None = None

    def sampler(
        self, *, prompt_ids: Collection[int] = (), end_ids: Collection[int] = ()
    ) -> Sampler:
        """Return a new sampler of one text with these settings. Each call draws its next token.

        Args:
            prompt_ids: token ids of the prompt.
            end_ids: token ids that end the text, as :meth:`all_end_ids` returns them.

        Raises:
            InputError: for a value out of its range.
        """
        self.check()
        processors = self._processors(prompt_ids, end_ids)
        draw = self._draw()
        return _ProcessedSampler(processors, draw) if processors else draw

    def lookup(self, prompt_ids: Sequence[int]) -> PromptLookup | None:
        """Return new drafts of one text; None for no drafts.

        Args:
            prompt_ids: token ids of the prompt.
        """
        most = self.prompt_lookup_num_tokens
        return PromptLookup(prompt_ids, most=most) if most else None

    def all_end_ids(self, end_ids: Collection[int]) -> frozenset[int]:
        """Return the token ids that end a text.

        Args:
            end_ids: end tokens of the model.
        """
        return frozenset(() if self.ignore_eos else end_ids).union(self.stop_token_ids)

    def check(self, vocabulary: int | None = None) -> None:
        """Check the range of every value.

        Args:
            vocabulary: number of token ids; None to leave ids unchecked.

        Raises:
            InputError: for a value out of its range, NaN included.
        """
        _check_distribution(self)
        _check_penalties(self)
        for name in ("min_new_tokens", "prompt_lookup_num_tokens"):
            value = getattr(self, name)
            if not _is_whole(value) or value < 0:
                raise InputError(f"{name}={value!r}; expected a whole number >= 0")
        if self.min_new_tokens and self.min_new_tokens > self.max_new_tokens:
            raise InputError(
                f"min_new_tokens={self.min_new_tokens} and max_new_tokens={self.max_new_tokens}; "
                "expected at most as many"
            )
        for index, stop in enumerate(self.stop):
            if not isinstance(stop, str):
                raise InputError(
                    f"stop: text {index} of {len(self.stop)} is {stop!r}; expected strings"
                )
        _check_ids("logit_bias", self.logit_bias, vocabulary)
        _check_ids("stop_token_ids", self.stop_token_ids, vocabulary)

    def _processors(
        self, prompt_ids: Collection[int], end_ids: Collection[int]
    ) -> list[LogitsProcessor]:
        found: list[LogitsProcessor] = []
        if self.mask is not None:
            found.append(self.mask())
        if self.min_new_tokens:
            found.append(MinTokens(self.min_new_tokens, end_ids))
        if self.logit_bias:
            found.append(LogitBias(self.logit_bias))
        if self.repetition_penalty != 1 or self.frequency_penalty or self.presence_penalty:
            found.append(
                Penalties(
                    repetition=self.repetition_penalty,
                    frequency=self.frequency_penalty,
                    presence=self.presence_penalty,
                    prompt_ids=prompt_ids,
                )
            )
        return found

    def _draw(self) -> Sampler:
        """Return the function that draws from logits by temperature and filters."""
        if self.temperature < _COLDEST:
            return lambda logits_V: int(logits_V.argmax())
        generator = torch.Generator()
        generator.seed() if self.seed is None else generator.manual_seed(self.seed)

        def draw(logits_V: Tensor) -> int:
            scaled_V = logits_V.float().cpu() / self.temperature
            kept_V = _above(scaled_V, self.min_p)
            kept_V = _nucleus(_likeliest(kept_V, self.top_k), self.top_p)
            return int(torch.multinomial(kept_V.softmax(dim=0), 1, generator=generator))

        return draw


def is_complete(sampler: Sampler) -> bool:
    """Return whether the text of a sampler is complete, as at the end of a grammar."""
    return isinstance(sampler, _ProcessedSampler) and sampler.complete


class SamplingOverrides(TypedDict, total=False):
    """Keyword arguments that replace fields of :class:`SamplingParams` in one call."""

    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    seed: int | None
    stop: str | Sequence[str] | None
    min_p: float
    repetition_penalty: float
    frequency_penalty: float
    presence_penalty: float
    logit_bias: Mapping[int, float]
    stop_token_ids: tuple[int, ...]
    ignore_eos: bool
    min_new_tokens: int
    prompt_lookup_num_tokens: int
    shown_special_ids: tuple[int, ...]
    mask: Callable[[], LogitsProcessor] | None


def override(
    params: SamplingParams, overrides: SamplingOverrides, *, caller: str
) -> SamplingParams:
    """Return sampling parameters with some fields replaced.

    Args:
        params: the parameters to start from.
        overrides: new values; ``stop`` may be a single string or None.
        caller: name of the function in an error message.

    Raises:
        UnknownArgumentError: for a name that is no field of :class:`SamplingParams`.
        InputError: for a value out of range.
    """
    known = SamplingOverrides.__annotations__
    for name in overrides:
        if name not in known:
            raise UnknownArgumentError(
                f"{caller} got an unknown argument {name!r}{did_you_mean(name, known)}"
            )
    changes: dict[str, Any] = dict(overrides)
    if "stop" in changes:
        stop = changes["stop"]
        changes["stop"] = (stop,) if isinstance(stop, str) else tuple(stop or ())
    changed = replace(params, **changes)
    changed.check()
    return changed


class _ProcessedSampler:
    """Sampler that changes the logits of a text before each draw."""

    def __init__(self, processors: Sequence[LogitsProcessor], draw: Sampler) -> None:
        self._processors = processors
        self._draw = draw

    @property
    def complete(self) -> bool:
        """Whether the text is complete and no token may follow."""
        return any(processor.complete for processor in self._processors)

    def __call__(self, logits_V: Tensor) -> int:
        changed_V = logits_V.to(torch.float32, copy=True)
        for processor in self._processors:
            processor.apply(changed_V)
        if changed_V.max() == float("-inf"):
            raise InputError("no token may come next: the mask excludes all of them")
        token = self._draw(changed_V)
        for processor in self._processors:
            processor.accept(token)
        return token


def _check_distribution(params: SamplingParams) -> None:
    temperature, top_p, top_k, seed = params.temperature, params.top_p, params.top_k, params.seed
    if not _is_number(temperature) or not 0 <= temperature < float("inf"):
        raise InputError(f"temperature={temperature!r}; expected a number >= 0")
    if not _is_number(top_p) or not 0 < top_p <= 1:
        raise InputError(f"top_p={top_p!r}; expected 0 < top_p <= 1")
    if not _is_whole(top_k) or top_k < 0:
        raise InputError(f"top_k={top_k!r}; expected a whole number >= 0 (0 keeps all tokens)")
    if seed is not None and (not _is_whole(seed) or not -(2**63) <= seed < 2**64):
        raise InputError(f"seed={seed!r}; expected a whole number of 64 bits")
    _check_range("min_p", params.min_p, 0, 1)


def _check_penalties(params: SamplingParams) -> None:
    for name in ("frequency_penalty", "presence_penalty"):
        _check_range(name, getattr(params, name), -_LARGEST_PENALTY, _LARGEST_PENALTY)
    repetition = params.repetition_penalty
    _check_range("repetition_penalty", repetition, 1 / _LARGEST_REPETITION, _LARGEST_REPETITION)
    for token, bias in params.logit_bias.items():
        _check_range(f"logit_bias[{token!r}]", bias, -_LARGEST_BIAS, _LARGEST_BIAS)


def _check_range(name: str, value: object, least: float, most: float) -> None:
    if not _is_number(value) or not least <= value <= most:
        raise InputError(f"{name}={value!r}; expected a number from {least:g} to {most:g}")


def _check_ids(name: str, ids: Collection[int], vocabulary: int | None) -> None:
    for token in ids:
        if not _is_whole(token) or token < 0:
            raise InputError(f"{name} has the token id {token!r}; expected a whole number >= 0")
        if vocabulary is not None and token >= vocabulary:
            raise InputError(
                f"{name} has the token id {token}; expected 0 to {vocabulary - 1}, the ids of this "
                "model"
            )


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _above(logits_V: Tensor, min_p: float) -> Tensor:
    if min_p == 0:
        return logits_V
    probability_V = logits_V.softmax(dim=0)
    return logits_V.masked_fill(probability_V < min_p * probability_V.max(), float("-inf"))


def _likeliest(logits_V: Tensor, top_k: int) -> Tensor:
    if not 0 < top_k < len(logits_V):
        return logits_V
    lowest = logits_V.topk(top_k).values[-1]
    return logits_V.masked_fill(logits_V < lowest, float("-inf"))


def _nucleus(logits_V: Tensor, top_p: float) -> Tensor:
    if top_p == 1:
        return logits_V
    probability_V = logits_V.softmax(dim=0)
    likeliest_K, order_K = probability_V.topk(min(_USUAL_NUCLEUS, len(probability_V)))
    if likeliest_K.sum() < top_p:
        likeliest_K, order_K = probability_V.sort(descending=True)
    kept_K = likeliest_K.cumsum(dim=0) - likeliest_K < top_p
    kept_K[0] = True  # also where top_p is 0 in float32
    kept_V = torch.zeros_like(logits_V, dtype=torch.bool).scatter(0, order_K, kept_K)
    return logits_V.masked_fill(~kept_V, float("-inf"))
