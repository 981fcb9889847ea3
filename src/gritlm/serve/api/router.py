"""How every route reads its body and what its errors look like in the schema."""

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
    "4XX": {"model": ErrorResponse, "description": "The request is refused; the message says why."},
    "5XX": {"model": ErrorResponse, "description": "The server failed, or is shutting down."},
}


_LARGE = 2**16  # bytes of a body that takes long enough to be noticed by others


class _JsonRequest(Request):
    """Reads JSON strictly: no NaN, no half surrogate pairs."""

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            self._json = orjson.loads(await self.body())
        return self._json

    async def check(self, model: type[BaseModel]) -> None:
        """Read and check a large body beside the event loop; the route takes it as it is then.

        Raises:
            RequestValidationError: for another body.
        """
        body = await self.body()
        if len(body) > _LARGE:
            off_loop = self.app.state.service.off_loop
            with suppress(orjson.JSONDecodeError):  # it is told where small ones are
                self._json = await off_loop(checked, body, model)


def checked(body: bytes, model: type[BaseModel]) -> BaseModel:
    """A body, if it is one.

    Raises:
        RequestValidationError: for another one.
    """
    try:
        return model.model_validate(orjson.loads(body))
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
        raise RequestValidationError(
            [{**each, "loc": ("body", *each["loc"])} for each in errors]
        ) from None


class _JsonRoute(APIRoute):
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
    return APIRouter(route_class=_JsonRoute, responses=ERRORS, **options)


def stream_of(model: type[Any]) -> dict[int | str, dict[str, Any]]:
    """How a route says that it may answer with events.

    Args:
        model: of one event.
    """
    about = f"The answer, or with stream=true server-sent events of {model.__name__}."
    return {200: {"description": about, "content": {"text/event-stream": {"schema": _STREAM}}}}


_STREAM = {"description": "data: {...} lines; the last one is data: [DONE]."}
