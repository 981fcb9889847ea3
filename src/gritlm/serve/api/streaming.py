"""Engine events to a JSON response, or to a stream of server-sent events."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from gritlm.errors import GritLMError
from gritlm.serve.api.request_group import RequestGroup
from gritlm.serve.engine.requests import (
    EngineEvent,
    FinishReason,
    OutputDelta,
    PrefillFinished,
    TokenLogprob,
)
from gritlm.serve.errors import as_api_error, internal
from gritlm.serve.http.logging import REQUEST_ID

log = logging.getLogger(__name__)

DONE = b"data: [DONE]\n\n"


@dataclass
class GeneratedText:
    """The text of one choice, as far as it has been generated."""

    text: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    def take(self, delta: OutputDelta) -> None:
        """Append the output of a step."""
        self.text += delta.text
        self.logprobs.extend(delta.logprobs)
        self.finish_reason = delta.finish_reason or self.finish_reason


@dataclass
class TokenUsage:
    """Token counts of a request.

    Attributes:
        choices: generated texts for each prompt; the tokens of a prompt count once.
        prompt: tokens of all prompts.
        cached: prompt tokens whose keys and values were reused.
        written: generated tokens.
    """

    choices: int
    prompt: int = 0
    cached: int = 0
    written: int = 0

    def take(self, index: int, event: EngineEvent) -> None:
        """Add the tokens of an event of sequence ``index``."""
        if isinstance(event, PrefillFinished) and index % self.choices == 0:
            self.prompt += event.prompt_tokens
            self.cached += event.cached_tokens
        elif isinstance(event, OutputDelta):
            self.written += event.tokens

    def usage(self) -> dict[str, Any]:
        """Return the counts as OpenAI's ``usage`` object."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.written,
            "total_tokens": self.prompt + self.written,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }


class ResponseBuilder(Protocol):
    """Builder of the JSON of one endpoint."""

    def note(self, event: EngineEvent) -> None:
        """Take note of an event, before anything is built from it."""

    def whole(self, parts: list[GeneratedText], tally: TokenUsage) -> Mapping[str, Any]:
        """Return the response that is sent without a stream."""

    def opening(self, index: int) -> Mapping[str, Any] | None:
        """Return the first event of a choice, or None if there is no such event."""

    def piece(self, index: int, delta: OutputDelta) -> Mapping[str, Any]:
        """Return the event for the output of one step."""

    def closing(self, tally: TokenUsage, *, include_usage: bool) -> Mapping[str, Any] | None:
        """Return the event behind all choices, or None if there is no such event."""


async def as_whole(
    group: RequestGroup, builder: ResponseBuilder, *, sequences: int, choices: int
) -> Response:
    """Return one JSON response once all sequences have finished."""
    group.wait_for_all()
    parts = [GeneratedText() for _ in range(sequences)]
    tally = TokenUsage(choices)
    async for index, event in group.events():
        tally.take(index, event)
        builder.note(event)
        if isinstance(event, OutputDelta):
            parts[index].take(event)
    return json_response(builder.whole(parts, tally))


async def as_stream(
    group: RequestGroup, builder: ResponseBuilder, *, choices: int, include_usage: bool
) -> Response:
    """Return a stream of server-sent events.

    It waits for the first event: a failure before that is a response with its own status.
    """
    events = group.events()
    first = await anext(events)
    return _Stream(_frames(first, events, builder, TokenUsage(choices), include_usage), group)


def json_response(content: Any) -> Response:
    """Return a response with this content as JSON."""
    return Response(orjson.dumps(content), media_type="application/json")


class _Stream(StreamingResponse):
    """Server-sent events; the engine requests are cancelled however the stream ends."""

    def __init__(self, frames: AsyncIterator[bytes], group: RequestGroup) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(frames, headers=headers, media_type="text/event-stream")
        self._group = group

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._group:
            await super().__call__(scope, receive, send)


async def _frames(
    first: tuple[int, EngineEvent],
    events: AsyncIterator[tuple[int, EngineEvent]],
    builder: ResponseBuilder,
    tally: TokenUsage,
    include_usage: bool,
) -> AsyncIterator[bytes]:
    opened: set[int] = set()
    try:
        async with aclosing(_chain(first, events)) as all_events:
            async for index, event in all_events:
                tally.take(index, event)
                builder.note(event)
                if index not in opened:
                    opened.add(index)
                    if (opening := builder.opening(index)) is not None:
                        yield _frame(opening)
                if isinstance(event, OutputDelta) and _has_content(event):
                    yield _frame(builder.piece(index, event))
    except GritLMError as error:
        yield _frame(as_api_error(error).body())
    except Exception:
        log.exception("a stream failed after its first event")
        yield _frame(internal(REQUEST_ID.get()).body())
    else:
        if (closing := builder.closing(tally, include_usage=include_usage)) is not None:
            yield _frame(closing)
        yield DONE


async def _chain(
    first: tuple[int, EngineEvent], rest: AsyncIterator[tuple[int, EngineEvent]]
) -> AsyncGenerator[tuple[int, EngineEvent]]:
    yield first
    async for event in rest:
        yield event


def _has_content(delta: OutputDelta) -> bool:
    return bool(delta.text or delta.logprobs or delta.finish_reason)


def _frame(content: Mapping[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(content) + b"\n\n"
