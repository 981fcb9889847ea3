"""Error responses in the format of OpenAI's API: ``{"error": {message, type, param, code}}``.

On the paths of other APIs they have the form of these, see ``dialects/error_forms.py``.

Routes and middleware raise or send an :class:`ApiError`; :func:`install_handlers` makes the
application turn it, and every error of the library, into a response.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
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

AUDIO = "/v1/audio/"  # of OpenAI's API; no route of this server begins with it
INVALID = "invalid_request_error"
SERVER = "server_error"
LIMIT = "rate_limit_error"
_RETRY_ELSEWHERE_S = 5
_REASONS = 3  # reasons in a message
_REASON_CHARS = 300  # characters of a reason, and of a document's name
_INTERNAL = (StoreFullError, StoreLockedError, IndexDamagedError)  # not the client's fault
_VALUE_CHARS = 40  # characters of a wrong value
_NAMING_VALUES = frozenset(  # problems, by their types in pydantic, whose messages need the value
    {
        "bool_type",
        "finite_number",
        "float_type",
        "greater_than",
        "greater_than_equal",
        "int_from_float",
        "int_type",
        "less_than",
        "less_than_equal",
        "literal_error",
        "string_type",
    }
)
_CODES = {  # code of a problem, by its type in pydantic
    "extra_forbidden": "unknown_parameter",
    "missing": "missing_required_parameter",
    "json_invalid": "invalid_json",
    "unsupported_value": "unsupported_value",
}


# Form of the errors of the current request; None for that of OpenAI's API.
FORM: ContextVar[Callable[[ApiError], Mapping[str, Any]] | None] = ContextVar("form", default=None)


class ApiError(GritLMError):
    """A refused request, and the error response for its client.

    Args:
        message: text for a person.
        headers: headers of the response.

    Attributes:
        status: HTTP status.
        type: error type, as in OpenAI's API.
        param: field of the request that is wrong.
        code: stable identifier for programs.
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
        """Reason phrase of the status, as in a response's first line."""
        return HTTPStatus(self.status).phrase

    def body(self) -> dict[str, Any]:
        """Return the JSON body of the response."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": error}

    def response(self, more: Mapping[str, Any] | None = None) -> Response:
        """Return the HTTP response, in the form that the client of the current request expects.

        Args:
            more: further fields of the body, next to the error.
        """
        form = FORM.get() or ApiError.body
        body = {**(more or {}), **form(self)}
        return Response(
            orjson.dumps(body), self.status, self.headers, media_type="application/json"
        )


def invalid(message: str, *, param: str | None = None, code: str = "invalid_value") -> ApiError:
    """Return the error for an invalid value in a request."""
    return ApiError(400, message, code=code, param=param)


def too_long(message: str, *, param: str) -> ApiError:
    """Return the error for more tokens than the model takes."""
    return ApiError(400, message, code="context_length_exceeded", param=param)


def no_model(name: str, known: Sequence[str]) -> ApiError:
    """Return the error for a model name that this server does not have."""
    return ApiError(
        404,
        f"The model '{excerpt(name)}' does not exist; this server has {', '.join(known)}",
        code="model_not_found",
        param="model",
    )


def no_audio(path: str) -> ApiError:
    """Return the error for a request to transcribe, translate or speak.

    Args:
        path: path of the request.
    """
    return ApiError(
        404,
        f"This server has no {excerpt(path)}: no model here transcribes or speaks; to ask a model "
        "that reads sound, send the sound as an input_audio part of a chat",
        code="not_found",
    )


def no_store() -> ApiError:
    """Return the error for a request about documents, on a server without a store."""
    return ApiError(
        404,
        "This server has no store of documents; start it with: gritlm serve --store FOLDER",
        code="no_store",
    )


def no_store_for_key() -> ApiError:
    """Return the error for a request about documents, with a key that may use no store."""
    return ApiError(
        404,
        "This key may use no store of documents; let the operator add one to the key file",
        code="no_store",
    )


def no_store_named(name: str, known: Sequence[str]) -> ApiError:
    """Return the error for a store that does not exist, or that the key may not use.

    Args:
        name: the name in the request.
        known: names of the stores that the key may use.
    """
    choices = f"expected {' or '.join(known)}" if known else "this key may use no store"
    return ApiError(
        404,
        f"There is no store '{excerpt(name, 64)}'; {choices}",
        code="store_not_found",
        param="store",
    )


def several_stores(known: Sequence[str]) -> ApiError:
    """Return the error for a request that names none of several stores."""
    return invalid(
        f"'store' is missing; expected {' or '.join(known)}",
        param="store",
        code="missing_required_parameter",
    )


def no_right(key: str, right: str) -> ApiError:
    """Return the error for a key without the right that its request needs.

    Args:
        key: name of the key.
        right: name of the right.
    """
    return ApiError(
        403,
        f"The key '{excerpt(key)}' lacks the right '{right}'; use a key that has it, or let the "
        "operator add it to the key file",
        code="missing_right",
    )


def other_model(name: str, makers: Mapping[str, str]) -> ApiError:
    """Return the error for a model whose documents are in no store, or not in the named one.

    Args:
        name: name of the model.
        makers: name of the model of each store.
    """
    known = ", ".join(f"'{store}' to '{maker}'" for store, maker in makers.items())
    return invalid(
        f"the model '{excerpt(name)}' cannot read the documents of another model; the stores "
        f"belong to their models: {known}",
        param="model",
        code="other_model",
    )


def internal(request_id: str) -> ApiError:
    """Return the error for a fault of the server; only the log has its details."""
    return ApiError(
        500,
        f"The server failed; its log has the error under request id {request_id}",
        code="internal_error",
        type=SERVER,
    )


def draining() -> ApiError:
    """Return the error for a request that arrives while the server shuts down."""
    return ApiError(
        503,
        "The server is shutting down and takes no new requests; send it to another server",
        code="draining",
        type=SERVER,
        headers={"Retry-After": str(_RETRY_ELSEWHERE_S)},
    )


def too_many_connections() -> ApiError:
    """Return the error for a connection above ``max_connections``."""
    return ApiError(
        503,
        "The server has as many connections as it takes; try again",
        code="overloaded",
        type=SERVER,
        headers={"Retry-After": "1"},
    )


def no_memory_for_bodies(total: int) -> ApiError:
    """Return the error for a body that does not fit next to the bodies of running requests."""
    return ApiError(
        503,
        f"The bodies of running requests reach the server's limit of {total:,} bytes; try again",
        code="overloaded",
        type=SERVER,
        headers={"Retry-After": "1"},
    )


def large_header(most_bytes: int, most: int) -> ApiError:
    """Return the error for a header that is too large to be read to its end.

    Args:
        most_bytes: most bytes of all header fields.
        most: most header fields.
    """
    return ApiError(
        431,
        f"The request's header is too large; expected at most {most_bytes:,} bytes in {most} "
        "fields",
        code="header_too_large",
    )


def interrupted_error() -> ApiError:
    """Return the error for a running request that the shutdown cuts off.

    Unlike a request that :func:`draining` refuses, it may have taken effect.
    """
    return ApiError(
        503,
        "The server was shut down before this request had ended; check whether it took effect, "
        "or send it again",
        code="interrupted",
        type=SERVER,
    )


def disk_full(went_in: int, of: int) -> ApiError:
    """Return the error for a disk that became full while documents were added.

    Args:
        went_in: documents that are in the store.
        of: documents of the request.
    """
    return ApiError(
        507,
        f"The server's disk is full: {went_in} of {of} documents are in its store, the others "
        "are not; free some space and send the same request again",
        code="insufficient_storage",
        type=SERVER,
    )


def none_added(skipped: Sequence[Mapping[str, str]], count: int) -> ApiError:
    """Return the error for a request of which no document could be added.

    Args:
        skipped: the first skipped documents, each with ``name`` and ``reason``.
        count: number of all skipped documents.
    """
    first = "; ".join(
        f"{each['name'][:_REASON_CHARS]}: {each['reason'][:_REASON_CHARS]}"
        for each in skipped[:_REASONS]
    )
    more = f"; and {count - _REASONS:,} more" if count > _REASONS else ""
    return invalid(f"No document went in: {first}{more}", code="no_documents_added")


def as_api_error(error: GritLMError) -> ApiError:
    """Return the error response for an error of the library."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, OverloadedError):
        wait = str(max(1, math.ceil(error.retry_after_s)))
        return ApiError(
            429, str(error), code="rate_limit_exceeded", type=LIMIT, headers={"Retry-After": wait}
        )
    if isinstance(error, RequestInterruptedError):
        return interrupted_error()
    if isinstance(error, DrainingError):
        return draining()
    if isinstance(error, PromptTooLongError):
        return ApiError(400, str(error), code="context_length_exceeded")
    if isinstance(error, TooManyTokensError):
        return ApiError(400, str(error), code="max_tokens_per_request")
    if isinstance(error, ModeError):
        return invalid(str(error), param="model", code="unsupported_value")
    if isinstance(error, InputError | UnknownArgumentError) and not isinstance(error, _INTERNAL):
        return invalid(str(error))
    if isinstance(error, StoreFullError):
        log.error("the disk is full: %s", error)
        return ApiError(
            507,
            "The server's disk is full, and nothing was changed; free some space and send the same "
            "request again",
            code="insufficient_storage",
            type=SERVER,
        )
    log.error("a request failed", exc_info=error)  # it may name paths of the server
    return internal(REQUEST_ID.get())


def from_validation(errors: Sequence[Mapping[str, Any]]) -> ApiError:
    """Return the error for the first problem of a body, with the number of further problems.

    Args:
        errors: problems as pydantic reports them.
    """
    first = errors[0]
    code = _CODES.get(first["type"], "invalid_value")
    path = first["loc"][1:]  # without its first element: body, query or path
    if code == "invalid_json":
        return invalid(f"the body is no valid JSON: {first['ctx']['error']}", code=code)
    if not path and first["type"] in ("model_attributes_type", "dict_type", "model_type"):
        return invalid(
            "the body is no JSON object; send one with Content-Type: application/json",
            code="invalid_json",
        )
    param = _field_name(path) or None
    message = _message(first, param, code)
    if len(errors) > 1:
        message += f" (and {len(errors) - 1} more problems)"
    return invalid(message, param=param, code=code)


def _message(error: Mapping[str, Any], param: str | None, code: str) -> str:
    if code == "unknown_parameter":
        return f"'{param}' is not supported by this server; leave it out"
    if code == "missing_required_parameter":
        return f"'{param or 'body'}' is missing"
    text = str(error["msg"])
    if not param:
        return text
    value = error.get("input")
    named = error["type"] in _NAMING_VALUES and isinstance(value, str | int | float)
    shown = f"{excerpt(json.dumps(value), _VALUE_CHARS)}; " if named else ""
    return f"'{param}': {shown}{text[:1].lower()}{text[1:]}"


def _field_name(path: Sequence[str | int]) -> str:
    """Format a path such as ``["messages", 0, "content"]`` as ``messages[0].content``."""
    field = ""
    for part in path:
        if isinstance(part, int):
            field += f"[{part}]"
        else:
            name = excerpt(part, 64)
            field += f".{name}" if field else name
    return field


def install_handlers(app: FastAPI) -> None:
    """Register handlers that answer every error of a route in OpenAI's format."""

    async def library(_: Request, error: Exception) -> Response:
        assert isinstance(error, GritLMError)
        return as_api_error(error).response()

    async def validation(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return from_validation(error.errors()).response()

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _from_http(error, request).response()

    app.add_exception_handler(GritLMError, library)
    app.add_exception_handler(RequestValidationError, validation)
    app.add_exception_handler(HTTPException, http)


def _from_http(error: HTTPException, request: Request) -> ApiError:
    route = f"{request.method} {excerpt(request.url.path)}"
    if error.status_code == HTTPStatus.NOT_FOUND and request.url.path.startswith(AUDIO):
        return no_audio(request.url.path)
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    message = f"{route}: {error.detail}"
    return ApiError(error.status_code, message, code=code, headers=error.headers)
