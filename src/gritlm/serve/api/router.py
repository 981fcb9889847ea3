"""Router of the API: strict JSON bodies, and errors and streams in the OpenAPI schema."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeGuard

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError

from gritlm.serve.schemas.common import ErrorResponse

ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {
        "model": ErrorResponse,
        "description": "The request was refused; the message gives the reason.",
    },
    "5XX": {"model": ErrorResponse, "description": "The server failed or is shutting down."},
}


_LARGE = 2**16  # bytes of a body whose parsing would delay other requests


class _JsonRequest(Request):
    """Request with strict JSON: no NaN, no half surrogate pairs."""

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            self._json = orjson.loads(await self.body())
        return self._json

    async def check(self, model: type[BaseModel]) -> None:
        """Parse and validate a large body in another thread, so that the event loop goes on.

        The route then uses the validated model.

        Raises:
            RequestValidationError: if the body does not fit the model.
        """
        body = await self.body()
        if len(body) > _LARGE:
            off_loop = self.app.state.service.off_loop
            with suppress(orjson.JSONDecodeError):  # reported by the route, as for small bodies
                self._json = await off_loop(checked, body, model)


def checked(body: bytes, model: type[BaseModel]) -> BaseModel:
    """Parse a body and validate it against a model.

    Raises:
        RequestValidationError: if the body does not fit the model.
    """
    try:
        return model.model_validate(orjson.loads(body))
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
        raise RequestValidationError(
            [{**item, "loc": ("body", *item["loc"])} for item in errors]
        ) from None


class _JsonRoute(APIRoute):
    """Route that reads its body as a `_JsonRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        field = self.body_field
        model = None if field is None else field.field_info.annotation

        async def handle_strictly(request: Request) -> Response:
            strict = _JsonRequest(request.scope, request.receive)
            if _is_body(model):
                await strict.check(model)
            return await handle(strict)

        return handle_strictly


def _is_body(model: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(model, type) and issubclass(model, BaseModel)


def new_router(**options: Any) -> APIRouter:
    """Return a router with strict JSON bodies, whose routes document their errors."""
    return APIRouter(route_class=_JsonRoute, responses=ERRORS, **options)


def stream_of(model: type[Any]) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI entry of a response that may be a stream of server-sent events.

    Args:
        model: the model of one event.
    """
    text = f"The response; with stream=true, server-sent events of {model.__name__}."
    return {200: {"description": text, "content": {"text/event-stream": {"schema": _STREAM}}}}


_STREAM = {"description": "Lines data: {...}; the last one is data: [DONE]."}
