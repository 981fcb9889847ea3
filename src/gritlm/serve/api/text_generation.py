"""Sampling parameters, engine requests and responses that all endpoints writing text share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from starlette.responses import Response

from gritlm.lm.grammar.compiler import Grammar
from gritlm.lm.gritlm import GritLM
from gritlm.lm.sampling import SamplingParams
from gritlm.lm.tokens import Prompt
from gritlm.serve.access import ACCESS
from gritlm.serve.api.logprobs import SequenceLogprobs, TokenTexts
from gritlm.serve.api.request_group import RequestGroup
from gritlm.serve.api.streaming import (
    Dialect,
    OpenAIDialect,
    ResponseBuilder,
    TokenUsage,
    as_stream,
    as_whole,
)
from gritlm.serve.engine.requests import EngineEvent, GenerateRequest
from gritlm.serve.errors import invalid
from gritlm.serve.request_trace import TRACE
from gritlm.serve.schemas.common import StreamOptions
from gritlm.serve.schemas.sampling import SamplingFields


class ChoicesBuilder:
    """Base of the builders for OpenAI's responses, which hold a list of choices.

    Args:
        head: fields that every response and every event begins with: id, model, time.
        token_texts: texts of the model's tokens.
        logprobs: whether choices include log-probabilities.
        usage: whether each event of a stream has the field ``usage``, null until the last one.
    """

    chunk_object: str

    def __init__(
        self, head: Mapping[str, Any], token_texts: TokenTexts, *, logprobs: bool, usage: bool
    ) -> None:
        self._head = head
        self._token_texts = token_texts
        self._logprobs = logprobs
        self._empty_usage = {"usage": None} if usage else {}
        self._sequences: dict[int, SequenceLogprobs] = {}

    def note(self, event: EngineEvent) -> None:
        """Ignore the event: the response needs the text alone."""

    def closing(self, tally: TokenUsage, *, include_usage: bool) -> Mapping[str, Any] | None:
        """Return the event with the token counts, or None if they were not requested."""
        if not include_usage:
            return None
        return self.event([]) | {"usage": tally.usage()}

    def event(self, choices: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return one event of a stream with these choices."""
        return {
            **self._head,
            "object": self.chunk_object,
            "choices": choices,
            **self._empty_usage,
        }

    def _sequence(self, index: int) -> SequenceLogprobs:
        """Return the log-probabilities of one choice, with the offset reached in its text."""
        return self._sequences.setdefault(index, self._token_texts.new_sequence())


def generate_requests(
    prompts: Sequence[Prompt],
    sampling: Sequence[SamplingParams],
    choices: int,
    *,
    model: GritLM,
    prompt_logprobs: bool = False,
) -> list[GenerateRequest]:
    """Return one engine request for each choice of each prompt.

    The choices of a prompt differ in their seed: ``seed``, ``seed + 1`` and so on.

    Args:
        prompts: the prompts.
        sampling: sampling parameters, one set for each prompt.
        choices: texts to generate for each prompt.
        model: model that generates.
        prompt_logprobs: whether to report the log-probabilities of the prompts too.
    """
    owner = ACCESS.get().owner
    return [
        GenerateRequest(
            tuple(prompt.ids),
            _for_choice(params, choice),
            prompt_logprobs,
            model,
            owner,
            prompt.media,
        )
        for prompt, params in zip(prompts, sampling, strict=True)
        for choice in range(choices)
    ]


def _for_choice(params: SamplingParams, choice: int) -> SamplingParams:
    return params if params.seed is None else replace(params, seed=params.seed + choice)


def sampling_params(
    body: SamplingFields,
    max_tokens: int,
    *,
    vocabulary: int,
    top_k: int | None = None,
    logprobs: int | None = None,
    grammar: Grammar | None = None,
) -> SamplingParams:
    """Return the sampling parameters of a request.

    Args:
        body: the request.
        max_tokens: the most tokens to generate.
        vocabulary: number of token ids of the model.
        top_k: number of likeliest tokens to sample from; None, 0 or -1 for all.
        logprobs: alternatives to report for each token; None for no log-probabilities.
        grammar: grammar that the text follows; None for any text.

    Raises:
        ApiError: for a token id that the model does not have, or more ``min_tokens`` than the
            request generates.
    """
    bias = {int(token): number for token, number in (body.logit_bias or {}).items()}
    _require_ids(bias, "logit_bias", vocabulary)
    _require_ids(body.stop_token_ids or (), "stop_token_ids", vocabulary)
    least = body.min_tokens or 0
    if least > max_tokens:
        raise invalid(
            f"min_tokens={least}; expected at most {max_tokens}, the tokens that are generated",
            param="min_tokens",
        )
    params = SamplingParams(
        max_new_tokens=max_tokens,
        temperature=_or_default(body.temperature, 1.0),
        top_p=_or_default(body.top_p, 1.0),
        top_k=max(0, top_k or 0),
        seed=body.seed,
        stop=stop_strings(body.stop),
        logprobs=logprobs,
        min_p=_or_default(body.min_p, 0.0),
        repetition_penalty=_or_default(body.repetition_penalty, 1.0),
        frequency_penalty=_or_default(body.frequency_penalty, 0.0),
        presence_penalty=_or_default(body.presence_penalty, 0.0),
        logit_bias=bias,
        stop_token_ids=tuple(body.stop_token_ids or ()),
        ignore_eos=bool(body.ignore_eos),
        min_new_tokens=least,
        prompt_lookup_num_tokens=(
            SamplingParams.prompt_lookup_num_tokens
            if body.prompt_lookup_num_tokens is None
            else body.prompt_lookup_num_tokens
        ),
        mask=None if grammar is None else grammar.start,
    )
    if (trace := TRACE.get()) is not None:
        trace.note_sampling(params)
    return params


def _or_default(value: float | None, default: float) -> float:
    return default if value is None else value


def _require_ids(ids: Iterable[int], param: str, vocabulary: int) -> None:
    for token in ids:
        if token >= vocabulary:
            raise invalid(
                f"'{param}' has the token id {token}; expected 0 to {vocabulary - 1}, the ids of "
                "this model",
                param=param,
            )


async def respond(
    group: RequestGroup,
    builder: ResponseBuilder,
    *,
    sequences: int,
    choices: int,
    stream: bool | None,
    usage: bool,
    dialect: Dialect | None = None,
) -> Response:
    """Return the response to requests that were submitted, as a whole or as a stream.

    The requests are cancelled when this coroutine is, or when the client hangs up.

    Args:
        group: the submitted requests.
        builder: builds the JSON of the response.
        sequences: generated texts in the response.
        choices: generated texts for each prompt.
        stream: whether to send a stream of events.
        usage: whether the stream ends with the token counts.
        dialect: form of the response; None for that of OpenAI's API.
    """
    dialect = dialect or OpenAIDialect()
    if not stream:
        with group:
            return await as_whole(group, builder, dialect, sequences=sequences, choices=choices)
    try:
        return await as_stream(group, builder, dialect, choices=choices, include_usage=usage)
    except BaseException:
        group.cancel()
        raise


def wants_usage(stream: bool | None, options: StreamOptions | None) -> bool:
    """Return whether a stream ends with its token counts.

    Raises:
        ApiError: if there are stream options but ``stream`` is not true.
    """
    if options is not None and not stream:
        raise invalid("'stream_options' is for stream=true only", param="stream_options")
    return options is not None and bool(options.include_usage)


def stop_strings(stop: str | list[str] | None) -> tuple[str, ...]:
    """Return the stop strings of a request, whichever of the three forms it used."""
    return (stop,) if isinstance(stop, str) else tuple(stop or ())
