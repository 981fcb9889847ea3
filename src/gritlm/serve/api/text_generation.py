"""Chats and completions: bodies -> works -> answers."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.responses import Response

from gritlm.lm.sampling import SamplingParams
from gritlm.serve.api.calls import RequestGroup
from gritlm.serve.api.formats import ChatResponseBuilder, CompletionResponseBuilder
from gritlm.serve.api.streaming import ResponseBuilder, as_stream, as_whole
from gritlm.serve.api.tokenization import Ids, characters
from gritlm.serve.engine.requests import GenerateRequest
from gritlm.serve.errors import invalid
from gritlm.serve.http.paths import CHAT, COMPLETIONS
from gritlm.serve.schemas.chat_completions import ChatCompletionRequest
from gritlm.serve.schemas.common import StreamOptions
from gritlm.serve.schemas.completions import CompletionRequest
from gritlm.serve.service import Service

_COMPLETION_TOKENS = 16  # what OpenAI's API writes when it is told nothing
_MOST_PROMPTS = 64


async def chat(service: Service, body: ChatCompletionRequest) -> Response:
    """Answer a conversation."""
    name = service.generation_model_name(body.model)
    logprobs = _chat_logprobs(body)
    usage = wants_usage(body.stream, body.stream_options)
    turns = [message.as_turn() for message in body.messages]
    size = sum(len(turn["content"]) for turn in turns)
    service.prompts.require_characters([size], "the prompt", param="messages")
    choices = body.n or 1
    with service.scheduler.reserve(choices) as place:
        calls = service.calls(CHAT, choices=choices)
        ids = await service.off_loop(service.prompts.chat, turns)
        room = service.prompts.room(ids, _most_tokens(body), param="messages")
        works = _works([ids], [room], body, logprobs)
        calls.submit(place, works)
    form = ChatResponseBuilder(
        service.head("chatcmpl", name, ChatResponseBuilder.whole_object),
        service.spelling,
        logprobs=logprobs is not None,
        usage=usage,
    )
    return await answered(
        calls, form, works=choices, choices=choices, stream=body.stream, usage=usage
    )


async def complete(service: Service, body: CompletionRequest) -> Response:
    """Go on with each of some texts."""
    name = service.generation_model_name(body.model)
    usage = wants_usage(body.stream, body.stream_options)
    prompts = body.prompt
    if len(prompts) > _MOST_PROMPTS:
        raise invalid(f"{len(prompts)} prompts; expected at most {_MOST_PROMPTS}", param="prompt")
    sizes = [characters(prompt) for prompt in prompts]
    service.prompts.require_characters(sizes, "prompt {}", param="prompt")
    choices = body.n or 1
    with service.scheduler.reserve(len(prompts) * choices) as place:
        calls = service.calls(COMPLETIONS, choices=choices)
        many = await service.off_loop(service.prompts.plain, prompts)
        wanted = _COMPLETION_TOKENS if body.max_tokens is None else body.max_tokens
        rooms = [service.prompts.room(ids, wanted, param="prompt") for ids in many]
        works = _works(many, rooms, body, body.logprobs)
        calls.submit(place, works)
    form = CompletionResponseBuilder(
        service.head("cmpl", name, CompletionResponseBuilder.whole_object),
        service.spelling,
        logprobs=body.logprobs is not None,
        usage=usage,
    )
    return await answered(
        calls, form, works=len(works), choices=choices, stream=body.stream, usage=usage
    )


async def answered(
    calls: RequestGroup,
    form: ResponseBuilder,
    *,
    works: int,
    choices: int,
    stream: bool | None,
    usage: bool,
) -> Response:
    """The answer of works that were submitted; they are cancelled when this is."""
    if not stream:
        with calls:
            return await as_whole(calls, form, works=works, choices=choices)
    try:
        return await as_stream(calls, form, choices=choices, include_usage=usage)
    except BaseException:
        calls.cancel()
        raise


def wants_usage(stream: bool | None, options: StreamOptions | None) -> bool:
    """Whether a stream ends with its token counts.

    Raises:
        ApiError: for options of a stream without a stream.
    """
    if options is not None and not stream:
        raise invalid("'stream_options' is for stream=true only", param="stream_options")
    return options is not None and bool(options.include_usage)


def stops(given: str | list[str] | None) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given or ())


def _works(
    prompts: Sequence[Ids],
    rooms: Sequence[int],
    body: ChatCompletionRequest | CompletionRequest,
    logprobs: int | None,
) -> list[GenerateRequest]:
    """One work an answer; each draws with a seed of its own."""
    return [
        GenerateRequest(
            ids,
            SamplingParams(
                max_new_tokens=room,
                temperature=1.0 if body.temperature is None else body.temperature,
                top_p=1.0 if body.top_p is None else body.top_p,
                top_k=body.top_k or 0,
                seed=None if body.seed is None else body.seed + choice,
                stop=stops(body.stop),
                logprobs=logprobs,
            ),
        )
        for ids, room in zip(prompts, rooms, strict=True)
        for choice in range(body.n or 1)
    ]


def _most_tokens(body: ChatCompletionRequest) -> int | None:
    old = body.max_tokens
    new = body.max_completion_tokens
    if old is not None and new is not None and old != new:
        raise invalid(
            f"max_tokens={old} and max_completion_tokens={new}: give one of the two",
            param="max_tokens",
        )
    return old if new is None else new


def _chat_logprobs(body: ChatCompletionRequest) -> int | None:
    if body.top_logprobs is not None and not body.logprobs:
        raise invalid("'top_logprobs' needs logprobs=true", param="top_logprobs")
    return (body.top_logprobs or 0) if body.logprobs else None
