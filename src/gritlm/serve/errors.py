"""Every way to say no, as OpenAI's API does: ``{"error": {message, type, param, code}}``."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from gritlm.errors import GritLMError, InputError, ModeError, UnknownArgumentError
from gritlm.printable import excerpt
from gritlm.rag.kvstore.errors import IndexDamagedError, StoreFullError, StoreLockedError
from gritlm.serve.engine.errors import (
    DrainingError,
    OverloadedError,
    PromptTooLongError,
    RequestInterruptedError,
    TooManyTokensError,
)
from gritlm.serve.http.logging import REQUEST_ID

log = logging.getLogger(__name__)

INVALID = "invalid_request_error"
SERVER = "server_error"
LIMIT = "rate_limit_error"
_RETRY_ELSEWHERE_S = 5
_REASONS = 3
_SHOWN = 300  # reasons in a message, and characters of each
_OURS = (StoreFullError, StoreLockedError, IndexDamagedError)  # wrong here, not in the request
_KINDS = {
    "extra_forbidden": "unknown_parameter",
    "missing": "missing_required_parameter",
    "json_invalid": "invalid_json",
    "unsupported_value": "unsupported_value",
}


class ApiError(GritLMError):
    """A request that is refused, and what its client is told.

    Attributes:
        param: field of the request.
        code: what a program can tell it by.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        type: str = INVALID,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    @property
    def phrase(self) -> str:
        """Words of the status, as in the first line of an answer."""
        return HTTPStatus(self.status).phrase

    def body(self) -> dict[str, Any]:
        told = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": told}

    def response(self, more: Mapping[str, Any] | None = None) -> Response:
        """Return the answer.

        Args:
            more: fields next to ``error``.
        """
        body = {**(more or {}), **self.body()}
        return Response(
            orjson.dumps(body), self.status, self.headers, media_type="application/json"
        )


def invalid(message: str, *, param: str | None = None, code: str = "invalid_value") -> ApiError:
    """A request whose content cannot be used."""
    return ApiError(400, message, code=code, param=param)


def too_long(message: str, *, param: str) -> ApiError:
    """More tokens than the model takes."""
    return ApiError(400, message, code="context_length_exceeded", param=param)


def no_model(name: str, known: Sequence[str]) -> ApiError:
    return ApiError(
        404,
        f"The model '{excerpt(name)}' does not exist; this server has {', '.join(known)}",
        code="model_not_found",
        param="model",
    )


def internal(request_id: str) -> ApiError:
    """Our own mistake; its details are in the log only."""
    return ApiError(
        500,
        f"The server failed; its log tells why under request id {request_id}",
        code="internal_error",
        type=SERVER,
    )


def draining() -> ApiError:
    return ApiError(
        503,
        "The server is shutting down and takes no new requests; ask another one",
        code="draining",
        type=SERVER,
        headers={"Retry-After": str(_RETRY_ELSEWHERE_S)},
    )


def crowded() -> ApiError:
    """One connection more than there may be."""
    return ApiError(
        503,
        "The server has as many connections as it takes; try again",
        code="overloaded",
        type=SERVER,
        headers={"Retry-After": "1"},
    )


def full_of_bodies(total: int) -> ApiError:
    """Bodies of other requests leave no room for one more."""
    return ApiError(
        503,
        f"The bodies of running requests reach the server's limit of {total:,} bytes; try again",
        code="overloaded",
        type=SERVER,
        headers={"Retry-After": "1"},
    )


def large_header(most_bytes: int, most: int) -> ApiError:
    """A request whose header is not read to its end."""
    return ApiError(
        431,
        f"The request's header is too large; expected at most {most_bytes:,} bytes in {most} "
        "fields",
        code="header_too_large",
    )


def cut_off() -> ApiError:
    """Other than :func:`draining`: the request was taken, and may have had its effect."""
    return ApiError(
        503,
        "The server was shut down before this request had ended; look at what it came to, "
        "or ask again",
        code="interrupted",
        type=SERVER,
    )


def no_room(went_in: int, of: int) -> ApiError:
    """The disk is full in the middle of adding documents."""
    return ApiError(
        507,
        f"The server's disk is full: {went_in} of {of} documents are in its store, the others "
        "are not; when there is room, send the same again",
        code="insufficient_storage",
        type=SERVER,
    )


def none_added(skipped: Sequence[Mapping[str, str]], count: int) -> ApiError:
    """Return the answer to a request of which no document could be added.

    Args:
        skipped: the first of them, each a ``name`` with its ``reason``.
        count: of all.
    """
    first = "; ".join(
        f"{each['name'][:_SHOWN]}: {each['reason'][:_SHOWN]}" for each in skipped[:_REASONS]
    )
    more = f"; and {count - _REASONS:,} more" if count > _REASONS else ""
    return invalid(f"No document went in: {first}{more}", code="no_documents_added")


def as_api_error(error: GritLMError) -> ApiError:
    """What a client is told about an error of the library."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, OverloadedError):
        wait = str(max(1, math.ceil(error.retry_after_s)))
        return ApiError(
            429, str(error), code="rate_limit_exceeded", type=LIMIT, headers={"Retry-After": wait}
        )
    if isinstance(error, RequestInterruptedError):
        return cut_off()
    if isinstance(error, DrainingError):
        return draining()
    if isinstance(error, PromptTooLongError):
        return ApiError(400, str(error), code="context_length_exceeded")
    if isinstance(error, TooManyTokensError):
        return ApiError(400, str(error), code="max_tokens_per_request")
    if isinstance(error, ModeError):
        return invalid(str(error), param="model", code="unsupported_value")
    if isinstance(error, InputError | UnknownArgumentError) and not isinstance(error, _OURS):
        return invalid(str(error))
    if isinstance(error, StoreFullError):
        log.error("the disk is full: %s", error)
        return ApiError(
            507,
            "The server's disk is full, and nothing was changed; when there is room, send the "
            "same again",
            code="insufficient_storage",
            type=SERVER,
        )
    log.error("a request failed", exc_info=error)  # it may name paths of ours
    return internal(REQUEST_ID.get())


def from_validation(errors: Sequence[Mapping[str, Any]]) -> ApiError:
    """The first thing that is wrong with a body, and how many others there are."""
    first = errors[0]
    code = _KINDS.get(first["type"], "invalid_value")
    path = first["loc"][1:]  # behind where it was: body, query or path
    if code == "invalid_json":
        return invalid(f"the body is no valid JSON: {first['ctx']['error']}", code=code)
    if not path and first["type"] in ("model_attributes_type", "dict_type", "model_type"):
        return invalid(
            "the body is no JSON object; send one with Content-Type: application/json",
            code="invalid_json",
        )
    param = _spelled(path) or None
    message = _message(first, param, code)
    if len(errors) > 1:
        message += f" (and {len(errors) - 1} more problems)"
    return invalid(message, param=param, code=code)


def _message(error: Mapping[str, Any], param: str | None, code: str) -> str:
    if code == "unknown_parameter":
        return f"'{param}' is not supported by this server; leave it out"
    if code == "missing_required_parameter":
        return f"'{param or 'body'}' is missing"
    told = str(error["msg"])
    return f"'{param}': {told[:1].lower()}{told[1:]}" if param else told


def _spelled(path: Sequence[str | int]) -> str:
    """``["messages", 0, "content"]`` -> ``messages[0].content``."""
    made = ""
    for part in path:
        if isinstance(part, int):
            made += f"[{part}]"
        else:
            name = excerpt(part, 64)
            made += f".{name}" if made else name
    return made


def install(app: FastAPI) -> None:
    """Answer every error of a route in this shape."""

    async def ours(_: Request, error: Exception) -> Response:
        assert isinstance(error, GritLMError)
        return as_api_error(error).response()

    async def validation(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return from_validation(error.errors()).response()

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _of_http(error, request).response()

    app.add_exception_handler(GritLMError, ours)
    app.add_exception_handler(RequestValidationError, validation)
    app.add_exception_handler(HTTPException, http)


def _of_http(error: HTTPException, request: Request) -> ApiError:
    where = f"{request.method} {excerpt(request.url.path)}"
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    message = f"{where}: {error.detail}"
    return ApiError(error.status_code, message, code=code, headers=error.headers)
