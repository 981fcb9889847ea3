"""Events of works -> one JSON answer, or a stream of server-sent events."""

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
from gritlm.serve.api.calls import RequestGroup
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
    """One answer of a request, as far as it is written."""

    text: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    def take(self, delta: OutputDelta) -> None:
        self.text += delta.text
        self.logprobs.extend(delta.logprobs)
        self.finish_reason = delta.finish_reason or self.finish_reason


@dataclass
class TokenUsage:
    """Tokens of a request.

    Attributes:
        choices: answers to each prompt, which is counted once.
    """

    choices: int
    prompt: int = 0
    cached: int = 0
    written: int = 0

    def take(self, index: int, event: EngineEvent) -> None:
        if isinstance(event, PrefillFinished) and index % self.choices == 0:
            self.prompt += event.prompt_tokens
            self.cached += event.cached_tokens
        elif isinstance(event, OutputDelta):
            self.written += event.tokens

    def usage(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.written,
            "total_tokens": self.prompt + self.written,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }


class ResponseBuilder(Protocol):
    """How answers of one endpoint are spelled."""

    def note(self, event: EngineEvent) -> None:
        """An event came; called before it is spelled."""

    def whole(self, parts: list[GeneratedText], tally: TokenUsage) -> Mapping[str, Any]:
        """The answer in one piece."""

    def opening(self, index: int) -> Mapping[str, Any] | None:
        """Event with which an answer begins, if there is one."""

    def piece(self, index: int, delta: OutputDelta) -> Mapping[str, Any]:
        """Event for what one step added."""

    def closing(self, tally: TokenUsage, *, include_usage: bool) -> Mapping[str, Any] | None:
        """Event behind all answers, if there is one."""


async def as_whole(
    calls: RequestGroup, form: ResponseBuilder, *, works: int, choices: int
) -> Response:
    """Wait for all of it."""
    calls.wait_for_all()
    parts = [GeneratedText() for _ in range(works)]
    tally = TokenUsage(choices)
    async for index, event in calls.events():
        tally.take(index, event)
        form.note(event)
        if isinstance(event, OutputDelta):
            parts[index].take(event)
    return json_response(form.whole(parts, tally))


async def as_stream(
    calls: RequestGroup, form: ResponseBuilder, *, choices: int, include_usage: bool
) -> Response:
    """Events as they come; what fails before the first one is an error with its own status."""
    events = calls.events()
    first = await anext(events)
    return _Stream(_frames(first, events, form, TokenUsage(choices), include_usage), calls)


def json_response(content: Any) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")


class _Stream(StreamingResponse):
    """Server-sent events; however it ends, the places on the model's thread are free."""

    def __init__(self, frames: AsyncIterator[bytes], calls: RequestGroup) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(frames, headers=headers, media_type="text/event-stream")
        self._calls = calls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._calls:
            await super().__call__(scope, receive, send)


async def _frames(
    first: tuple[int, EngineEvent],
    events: AsyncIterator[tuple[int, EngineEvent]],
    form: ResponseBuilder,
    tally: TokenUsage,
    include_usage: bool,
) -> AsyncIterator[bytes]:
    opened: set[int] = set()
    try:
        async with aclosing(_chained(first, events)) as all_events:
            async for index, event in all_events:
                tally.take(index, event)
                form.note(event)
                if index not in opened:
                    opened.add(index)
                    if (opening := form.opening(index)) is not None:
                        yield _frame(opening)
                if isinstance(event, OutputDelta) and _shows(event):
                    yield _frame(form.piece(index, event))
    except GritLMError as error:
        yield _frame(as_api_error(error).body())
    except Exception:
        log.exception("an answer failed on its way")
        yield _frame(internal(REQUEST_ID.get()).body())
    else:
        if (closing := form.closing(tally, include_usage=include_usage)) is not None:
            yield _frame(closing)
        yield DONE


async def _chained(
    first: tuple[int, EngineEvent], rest: AsyncIterator[tuple[int, EngineEvent]]
) -> AsyncGenerator[tuple[int, EngineEvent]]:
    yield first
    async for each in rest:
        yield each


def _shows(delta: OutputDelta) -> bool:
    return bool(delta.text or delta.logprobs or delta.finish_reason)


def _frame(content: Mapping[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(content) + b"\n\n"
