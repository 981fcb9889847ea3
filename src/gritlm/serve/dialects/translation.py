"""Helpers of all dialects: requests of the internal models, and responses with vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import orjson
from fastapi import Response
from pydantic import BaseModel

from gritlm.serve.ignored_fields import CURRENT
from gritlm.serve.service import Service
from gritlm.serve.strict_json import validated

M = TypeVar("M", bound=BaseModel)


def translated(model: type[M], fields: Mapping[str, Any]) -> M:
    """Return the request of another route with these fields; null leaves a field out.

    Args:
        model: the model of that request.
        fields: its fields, as a client would send them.

    Raises:
        RequestValidationError: for a value out of range; the message names the field.
    """
    return validated(dict(fields), model, CURRENT.get())


async def vector_response(service: Service, content: Any) -> Response:
    """Return a response with vectors, serialised in a worker thread."""
    option = orjson.OPT_SERIALIZE_NUMPY
    body = await service.run_in_worker_thread(orjson.dumps, content, option=option)
    return Response(body, media_type="application/json")


def named_event(name: str, data: Mapping[str, Any]) -> bytes:
    """Return a server-sent event with a name."""
    return b"event: " + name.encode() + b"\ndata: " + orjson.dumps(data) + b"\n\n"
