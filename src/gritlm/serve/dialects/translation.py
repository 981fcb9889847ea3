"""Helpers of all dialects: requests of the internal models, and responses with vectors.

Shapes: N texts, D dimensions.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import orjson
from fastapi import Response
from pydantic import BaseModel

from gritlm.serve.api.embeddings import Vectors
from gritlm.serve.schemas.base import CURRENT
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


def in_format(vectors_ND: Vectors, name: str) -> Any:
    """Return vectors in a number format, as values for JSON.

    Args:
        vectors_ND: the vectors (N, D).
        name: ``float``; ``int8`` and ``uint8``, in which the largest component of each vector is
            127 away from zero, which is 0 and 128; ``binary`` and ``ubinary``, the signs of eight
            components in each signed or unsigned byte; or ``base64`` of little-endian float32.
    """
    if name == "float":
        return np.ascontiguousarray(vectors_ND, dtype=np.float32)
    if name == "base64":
        return [b64encode(row_D.tobytes()).decode() for row_D in vectors_ND.astype("<f4")]
    if name in ("binary", "ubinary"):
        bits_ND = np.packbits(vectors_ND > 0, axis=1)
        return bits_ND if name == "ubinary" else (bits_ND.astype(np.int16) - 128).astype(np.int8)
    largest_N1 = np.abs(vectors_ND).max(axis=1, keepdims=True)
    scaled_ND = np.rint(vectors_ND * (127 / np.maximum(largest_N1, 1e-12)))
    if name == "int8":
        return scaled_ND.astype(np.int8)
    return (scaled_ND + 128).astype(np.uint8)


def named_event(name: str, data: Mapping[str, Any]) -> bytes:
    """Return a server-sent event with a name."""
    return b"event: " + name.encode() + b"\ndata: " + orjson.dumps(data) + b"\n\n"
