"""Engine events to a JSON response, or to a stream of server-sent events."""

from __future__ import annotations

import logging
from asyncio import to_thread
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractContextManager, aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson
from anyio import CancelScope
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
from gritlm.serve.errors import ApiError, as_api_error, internal
from gritlm.serve.http.logging import REQUEST_ID

log = logging.getLogger(__name__)

DONE = b"data: [DONE]\n\n"
_MANY_LOGPROBS = 1024  # tokens of a response that is built next to the event loop


@dataclass
class GeneratedText:
    """The text of one choice, as far as it has been generated."""

    text: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None

    def take(self, delta: OutputDelta) -> None:
        """Append the output of a step."""
        self.text += delta.text
        self.logprobs.extend(delta.logprobs)
        self.finish_reason = delta.finish_reason or self.finish_reason
        self.stop_reason = delta.stop_reason


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

    def piece(self, index: int, delta: OutputDelta) -> Mapping[str, Any] | None:
        """Return the event for the output of one step, or None while it is held back."""

    def closing(self, tally: TokenUsage, *, include_usage: bool) -> Mapping[str, Any] | None:
        """Return the event behind all choices, or None if there is no such event."""


class Dialect(Protocol):
    """Form in which a client expects the response of OpenAI's API; one object for each request.

    Attributes:
        media_type: content type of a stream.
    """

    media_type: str

    def whole(self, response: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the response that is sent without a stream."""

    def frames(self, event: Mapping[str, Any]) -> bytes:
        """Return the bytes of the stream for an event; empty if the client expects none."""

    def failure(self, error: ApiError) -> bytes:
        """Return the last bytes of a stream that failed."""

    def end(self) -> bytes:
        """Return the last bytes of a complete stream."""


class OpenAIDialect:
    """The form of OpenAI's API itself."""

    media_type = "text/event-stream"

    def whole(self, response: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the response unchanged."""
        return response

    def frames(self, event: Mapping[str, Any]) -> bytes:
        """Return a server-sent event."""
        return b"data: " + orjson.dumps(event) + b"\n\n"

    def failure(self, error: ApiError) -> bytes:
        """Return a server-sent event with the error."""
        return self.frames(error.body())

    def end(self) -> bytes:
        """Return the marker of the end."""
        return DONE


async def as_whole(
    group: RequestGroup,
    builder: ResponseBuilder,
    dialect: Dialect,
    *,
    sequences: int,
    choices: int,
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
    if sum(len(part.logprobs) for part in parts) < _MANY_LOGPROBS:
        return json_response(dialect.whole(builder.whole(parts, tally)))
    return await to_thread(lambda: json_response(dialect.whole(builder.whole(parts, tally))))


async def as_stream(
    group: RequestGroup,
    builder: ResponseBuilder,
    dialect: Dialect,
    *,
    choices: int,
    include_usage: bool,
) -> Response:
    """Return a stream of events.

    It waits for the first event: a failure before that is a response with its own status.
    """
    events = group.events()
    first = await anext(events)
    content = _events(first, events, builder, TokenUsage(choices), include_usage)
    return EventStream(event_frames(content, dialect), group, dialect.media_type)


def json_response(content: Any) -> Response:
    """Return a response with this content as JSON."""
    return Response(orjson.dumps(content), media_type="application/json")


class EventStream(StreamingResponse):
    """Stream of events.

    Args:
        frames: bytes of the events.
        running: context of the request, which ends however the stream ends.
        media_type: content type of the stream.
    """

    def __init__(
        self,
        frames: AsyncGenerator[bytes],
        running: AbstractContextManager[Any],
        media_type: str = OpenAIDialect.media_type,
    ) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(frames, headers=headers, media_type=media_type)
        self._frames = frames
        self._running = running

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._running:
            try:
                await super().__call__(scope, receive, send)
            finally:
                with CancelScope(shield=True):  # the work of the stream ends before its context
                    await self._frames.aclose()


async def event_frames(
    events: AsyncGenerator[Mapping[str, Any]], dialect: Dialect
) -> AsyncGenerator[bytes]:
    """Yield the bytes of all events; an error is the last of them."""
    try:
        async with aclosing(events):
            async for event in events:
                if frames := dialect.frames(event):
                    yield frames
    except GritLMError as error:
        yield dialect.failure(as_api_error(error))
    except Exception:
        log.exception("a stream failed after its first event")
        yield dialect.failure(internal(REQUEST_ID.get()))
    else:
        yield dialect.end()


async def _events(
    first: tuple[int, EngineEvent],
    events: AsyncIterator[tuple[int, EngineEvent]],
    builder: ResponseBuilder,
    tally: TokenUsage,
    include_usage: bool,
) -> AsyncGenerator[Mapping[str, Any]]:
    """Yield the events of a stream in the form of OpenAI's API."""
    opened: set[int] = set()
    async with aclosing(_chain(first, events)) as all_events:
        async for index, event in all_events:
            tally.take(index, event)
            builder.note(event)
            if index not in opened:
                opened.add(index)
                if (opening := builder.opening(index)) is not None:
                    yield opening
            if isinstance(event, OutputDelta) and (piece := _piece(builder, index, event)):
                yield piece
    if (closing := builder.closing(tally, include_usage=include_usage)) is not None:
        yield closing


async def _chain(
    first: tuple[int, EngineEvent], rest: AsyncIterator[tuple[int, EngineEvent]]
) -> AsyncGenerator[tuple[int, EngineEvent]]:
    yield first
    async for event in rest:
        yield event


def _piece(builder: ResponseBuilder, index: int, delta: OutputDelta) -> Mapping[str, Any] | None:
    has_content = delta.text or delta.logprobs or delta.finish_reason
    return builder.piece(index, delta) if has_content else None
