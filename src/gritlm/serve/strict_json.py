"""Strict JSON for the API: routes that parse bodies strictly, and base models of their fields.

NaN, half surrogate pairs, wrong types and unknown fields are refused, not ignored. The router also
puts errors and streams into the OpenAPI schema.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, TypeGuard

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

MAX_FIELDS = 256  # of an object: each unknown one takes time to report
_LARGE = 2**16  # bytes of a body whose parsing would delay other requests


def _allow_nulls(schema: dict[str, Any]) -> None:
    """Declare in a schema that optional and unknown fields may be null."""
    null = {"type": "null"}
    schema["additionalProperties"] = null
    for name, field in schema.get("properties", {}).items():
        required = name in schema.get("required", ())
        if required or field.get("type") == "null" or null in field.get("anyOf", ()):
            continue
        notes = {key: field[key] for key in ("title", "description", "default") if key in field}
        kind = {key: value for key, value in field.items() if key not in notes}
        schema["properties"][name] = {**notes, "anyOf": [kind, null]}


class RequestModel(BaseModel):
    """Base of request models: strict types, no unknown fields, no NaN; null means left out."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        json_schema_extra=_allow_nulls,
    )

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:
        return _without_nulls(bounded(data), cls.model_fields)


class ResponseModel(BaseModel):
    """Base of response models. They describe responses in the schema and do not validate them."""

    model_config = ConfigDict(protected_namespaces=())


class ErrorDetail(ResponseModel):
    message: str
    type: str
    param: str | None
    code: str


class ErrorResponse(ResponseModel):
    error: ErrorDetail


def refused(type: str, message: str) -> PydanticCustomError:
    """Return a validation error whose message reaches the client unchanged."""
    return PydanticCustomError(type, "{message}", {"message": message})


def bounded(data: Any) -> Any:
    """Refuse an object with too many fields before its fields are validated."""
    if isinstance(data, dict) and len(data) > MAX_FIELDS:
        raise refused("too_many", f"{len(data):,} fields; expected at most {MAX_FIELDS}")
    return data


def _without_nulls(data: Any, fields: Mapping[str, FieldInfo]) -> Any:
    """Remove fields that are null, except for required ones, which are reported as wrong."""
    if not isinstance(data, dict):
        return data
    return {
        name: value
        for name, value in data.items()
        if value is not None or (name in fields and fields[name].is_required())
    }


ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {
        "model": ErrorResponse,
        "description": "The request was refused; the message gives the reason.",
    },
    "5XX": {"model": ErrorResponse, "description": "The server failed or is shutting down."},
}


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
            service = self.app.state.service
            with suppress(orjson.JSONDecodeError):  # reported by the route, as for small bodies
                self._json = await service.run_in_worker_thread(checked, body, model)


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
