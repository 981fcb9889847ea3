"""Errors in the form that the client of a path expects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gritlm.serve.errors import ApiError
from gritlm.serve.http import paths
from gritlm.serve.http.logging import REQUEST_ID

ErrorForm = Callable[[ApiError], Mapping[str, Any]]

_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def anthropic(error: ApiError) -> dict[str, Any]:
    """Return an error in the form of Anthropic's API."""
    if error.status in _ANTHROPIC_TYPES:
        kind = _ANTHROPIC_TYPES[error.status]
    else:
        kind = "api_error" if error.status >= 500 else "invalid_request_error"
    detail = {"type": kind, "message": error.message}
    return {"type": "error", "error": detail, "request_id": REQUEST_ID.get()}


def cohere(error: ApiError) -> dict[str, Any]:
    """Return an error in the form of Cohere's API."""
    return {"id": REQUEST_ID.get(), "message": error.message}


def ollama(error: ApiError) -> dict[str, Any]:
    """Return an error in the form of Ollama's API."""
    return {"error": error.message}


def tei(error: ApiError) -> dict[str, Any]:
    """Return an error in the form of text-embeddings-inference."""
    kind = "overloaded" if error.status in (429, 503) else "validation"
    return {"error": error.message, "error_type": "backend" if error.status == 500 else kind}


# Forms of errors by path; without one, errors have the form of OpenAI's API.
ERROR_FORMS: dict[str, ErrorForm] = {
    **dict.fromkeys(paths.OLLAMA_PATHS, ollama),
    paths.MESSAGES: anthropic,
    paths.COUNT_TOKENS: anthropic,
    paths.COHERE_EMBED: cohere,
    paths.COHERE_V2_EMBED: cohere,
    paths.COHERE_V2_RERANK: cohere,
    paths.TEI_EMBED: tei,
}
# Forms of errors of paths that do not exist, by the first part of the path.
FORMS_BELOW: dict[str, ErrorForm] = {paths.OLLAMA: ollama, paths.COHERE_V2: cohere}
