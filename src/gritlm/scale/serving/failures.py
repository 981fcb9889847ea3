"""Ends of responses whose replica has died: error responses, and error events of streams."""

from __future__ import annotations

import orjson
from starlette.types import Message

from gritlm.serve.dialects.error_forms import ERROR_FORMS
from gritlm.serve.errors import SERVER, ApiError
from gritlm.serve.http import paths

_EVENTS = b"text/event-stream"
_LINES = b"application/x-ndjson"


def replica_gone(*, writes: bool) -> ApiError:
    """Return the error of a request whose replica has died."""
    after = (
        "the documents may or may not have been changed; list them, or send the request again"
        if writes
        else "send the request again"
    )
    return ApiError(
        503,
        f"The replica that ran the request has ended; {after}",
        code="replica_gone",
        type=SERVER,
        headers={"Retry-After": "1"},
    )


def no_writer(store: str | None) -> ApiError:
    """Return the error of a write to a store that no replica writes to."""
    return ApiError(
        503,
        f"No replica writes to the store {store!r} now; send the request again later",
        code="no_writer",
        type=SERVER,
        headers={"Retry-After": "5"},
    )


def no_replica(waited_s: float) -> ApiError:
    """Return the error of a health check that no replica answered."""
    return ApiError(
        503, f"No replica answered within {waited_s:g} seconds", code="unhealthy", type=SERVER
    )


def closing_event(path: str, start: Message, error: ApiError) -> bytes | None:
    """Return the last bytes of a stream that failed; None for a response that is no stream.

    Args:
        path: path of the request.
        start: message with the headers of the response.
        error: the error.
    """
    kind = dict(start["headers"]).get(b"content-type", b"")
    form = ERROR_FORMS.get(path) or ApiError.body
    if kind.startswith(_LINES):
        return orjson.dumps(form(error)) + b"\n"
    if not kind.startswith(_EVENTS):
        return None
    if path == paths.RESPONSES:
        fields = {"type": "error", "code": error.code, "message": error.message, "param": None}
        return b"event: error\ndata: %s\n\n" % orjson.dumps(fields)
    named = b"event: error\n" if path == paths.MESSAGES else b""
    return named + b"data: %s\n\n" % orjson.dumps(form(error))
