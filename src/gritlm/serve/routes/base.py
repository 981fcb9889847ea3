"""How every route reads its body and what its errors look like in the schema."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from gritlm.serve.schemas.common import ErrorReply

ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorReply, "description": "The request is refused; the message says why."},
    "5XX": {"model": ErrorReply, "description": "The server failed, or is shutting down."},
}


class _JsonRequest(Request):
    """Reads JSON strictly: no NaN, no half surrogate pairs."""

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            self._json = orjson.loads(await self.body())
        return self._json


class _JsonRoute(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            return await handle(_JsonRequest(request.scope, request.receive))

        return handle_strictly


def new_router(**options: Any) -> APIRouter:
    return APIRouter(route_class=_JsonRoute, responses=ERRORS, **options)


def stream_of(model: type[Any]) -> dict[int | str, dict[str, Any]]:
    """How a route says that it may answer with events.

    Args:
        model: of one event.
    """
    about = f"The answer, or with stream=true server-sent events of {model.__name__}."
    return {200: {"description": about, "content": {"text/event-stream": {"schema": _STREAM}}}}


_STREAM = {"type": "string", "description": "data: {...} lines; the last one is data: [DONE]."}
