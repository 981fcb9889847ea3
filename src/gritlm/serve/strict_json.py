"""Strict JSON for the API: routes that parse bodies strictly, without NaN and half surrogate pairs.

The fields of a request that are ignored are named in a header of its response. The router also puts
errors and streams into the OpenAPI schema.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeGuard, TypeVar

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError

from gritlm.serve.schemas.base import CURRENT, ErrorResponse, IgnoredFields

M = TypeVar("M", bound=BaseModel)
_LARGE = 2**16  # bytes of a body whose parsing would delay other requests


class _JsonRequest(Request):
    """Request with strict JSON: no NaN, no half surrogate pairs."""

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            self._json = orjson.loads(await self.body())
        return self._json

    async def check(self, model: type[BaseModel], ignored: IgnoredFields) -> None:
        """Parse and validate the body; a large one in another thread, so that the event loop goes
        on. The route then uses the validated model.

        Raises:
            RequestValidationError: if the body does not fit the model.
        """
        body = await self.body()
        with suppress(orjson.JSONDecodeError):  # reported by the route
            if len(body) > _LARGE:
                service = self.app.state.service
                self._json = await service.run_in_worker_thread(checked, body, model, ignored)
            else:
                self._json = checked(body, model, ignored)


def checked(body: bytes, model: type[BaseModel], ignored: IgnoredFields) -> BaseModel:
    """Parse a body and validate it against a model.

    Args:
        body: JSON.
        model: the model of the request.
        ignored: gets the names of the fields that are ignored.

    Raises:
        RequestValidationError: if the body does not fit the model.
    """
    return validated(orjson.loads(body), model, ignored)


def validated(data: Any, model: type[M], ignored: IgnoredFields) -> M:
    """Validate the fields of a request against a model.

    Raises:
        RequestValidationError: if they do not fit the model.
    """
    try:
        return model.model_validate(data, context=ignored)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        raise RequestValidationError(
            [{**item, "loc": ("body", *item["loc"])} for item in errors]
        ) from None


class _JsonRoute(APIRoute):
    """Route that reads its body as a `_JsonRequest` and names the fields that are ignored."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        field = self.body_field
        model = None if field is None else field.field_info.annotation

        async def handle_strictly(request: Request) -> Response:
            strict = _JsonRequest(request.scope, request.receive)
            if not _is_body(model):
                return await handle(strict)
            ignored = IgnoredFields(strict=request.app.state.service.settings.strict)
            CURRENT.set(ignored)
            await strict.check(model, ignored)
            response = await handle(strict)
            ignored.write(response.headers)
            return response

        return handle_strictly


def _is_body(model: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(model, type) and issubclass(model, BaseModel)


def new_router(*, error: type[BaseModel] = ErrorResponse, **options: Any) -> APIRouter:
    """Return a router with strict JSON bodies, whose routes document their errors.

    Args:
        error: model of the error responses.
        **options: further options of the router.
    """
    responses: dict[int | str, dict[str, Any]] = {
        "4XX": {
            "model": error,
            "description": "The request was refused; the message gives the reason.",
        },
        "5XX": {"model": error, "description": "The server failed or is shutting down."},
    }
    return APIRouter(route_class=_JsonRoute, responses=responses, **options)


def stream_of(model: type[Any]) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI entry of a response that may be a stream of server-sent events.

    Args:
        model: the model of one event.
    """
    text = f"The response; with stream=true, server-sent events of {model.__name__}."
    return {200: {"description": text, "content": {"text/event-stream": {"schema": _STREAM}}}}


_STREAM = {"description": "Lines data: {...}; the last one is data: [DONE]."}
