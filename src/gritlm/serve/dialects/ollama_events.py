"""Responses of Ollama's API, and the JSON lines of their streams."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from time import perf_counter_ns
from typing import Any, Literal

import orjson

from gritlm.serve.dialects import error_forms
from gritlm.serve.errors import ApiError


class OllamaDialect:
    """Responses of ``/api/chat`` or ``/api/generate``, with the time that they took.

    Args:
        kind: the route: ``chat`` has messages, ``generate`` has texts.
    """

    media_type = "application/x-ndjson"

    def __init__(self, kind: Literal["chat", "generate"]) -> None:
        self._kind = kind
        self._started = perf_counter_ns()
        self._first: int | None = None  # nanoseconds until the first event
        self._calls: list[dict[str, str]] = []
        self._finish_reason: str | None = None
        self._rag: dict[str, Any] = {}

    def whole(self, response: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a complete response."""
        (choice,) = response["choices"]
        message = choice["message"]
        self._finish_reason = choice["finish_reason"]
        self._calls = [call["function"] for call in message.get("tool_calls") or ()]
        self._rag = {"rag": response["rag"]} if "rag" in response else {}
        return self._end(response, message["content"] or "")

    def frames(self, event: Mapping[str, Any]) -> bytes:
        """Return the lines for a chunk of a chat."""
        if self._first is None:
            self._first = perf_counter_ns() - self._started
        frames = b""
        for choice in event["choices"]:
            delta = choice["delta"]
            if text := delta.get("content"):
                frames += _line({**_head(event), **self._content(text), "done": False})
            for call in delta.get("tool_calls") or ():
                self._take(call["function"])
            if choice["finish_reason"] is not None:
                self._finish_reason = choice["finish_reason"]
                self._rag = {"rag": event["rag"]} if "rag" in event else {}
        if not event["choices"]:  # the last chunk, with the token counts
            frames += _line(self._end(event, ""))
        return frames

    def failure(self, error: ApiError) -> bytes:
        """Return a line with the error."""
        return _line(error_forms.ollama(error))

    def end(self) -> bytes:
        """Return nothing: the last line was sent with the token counts."""
        return b""

    def _take(self, function: Mapping[str, str]) -> None:
        """Collect a piece of a tool call: calls are sent as a whole."""
        if "name" in function:
            self._calls.append({"name": function["name"], "arguments": ""})
        self._calls[-1]["arguments"] += function["arguments"]

    def _content(self, text: str) -> dict[str, Any]:
        if self._kind == "generate":
            return {"response": text}
        return {"message": {"role": "assistant", "content": text}}

    def _end(self, response: Mapping[str, Any], text: str) -> dict[str, Any]:
        total = perf_counter_ns() - self._started
        first = total if self._first is None else self._first
        usage = response["usage"]
        content = self._content(text)
        if self._calls:
            content["message"]["tool_calls"] = list(map(_call, self._calls))
        return {
            **_head(response),
            **content,
            "done": True,
            "done_reason": "length" if self._finish_reason == "length" else "stop",
            "total_duration": total,
            "load_duration": 0,
            "prompt_eval_count": usage["prompt_tokens"],
            "prompt_eval_duration": first,
            "eval_count": usage["completion_tokens"],
            "eval_duration": total - first,
            **self._rag,
        }


def loaded(kind: str, model: str) -> dict[str, Any]:
    """Return the response to a request without a prompt, which only loads a model in Ollama."""
    empty = {"message": {"role": "assistant", "content": ""}}
    content = empty if kind == "chat" else {"response": ""}
    return {**_head({"model": model}), **content, "done": True, "done_reason": "load"}


def timestamp(seconds: float | None = None) -> str:
    """Return a time in the form of Ollama's API; None for now."""
    at = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(seconds, UTC)
    return at.isoformat().replace("+00:00", "Z")


def _head(response: Mapping[str, Any]) -> dict[str, Any]:
    return {"model": response["model"], "created_at": timestamp()}


def _call(function: Mapping[str, str]) -> dict[str, Any]:
    """Return a tool call with its arguments as an object; empty if the answer was cut in them."""
    try:
        arguments = orjson.loads(function["arguments"])
    except orjson.JSONDecodeError:
        arguments = {}
    return {"function": {"name": function["name"], "arguments": arguments}}


def _line(content: Mapping[str, Any]) -> bytes:
    return orjson.dumps(content) + b"\n"
