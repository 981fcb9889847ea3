"""Messages of Anthropic's API, and the named events of their streams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from gritlm.serve.dialects import error_forms
from gritlm.serve.dialects.translation import named_event
from gritlm.serve.errors import ApiError


class MessageDialect:
    """Messages, and the events that build one up block by block."""

    media_type = "text/event-stream"

    def __init__(self) -> None:
        self._started = False
        self._blocks = 0
        self._open: str | None = None  # type of the block that is being sent
        self._finish: dict[str, Any] = {}
        self._rag: dict[str, Any] = {}

    def whole(self, response: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a message."""
        (choice,) = response["choices"]
        message = choice["message"]
        calls = message.get("tool_calls") or ()
        text = message["content"]
        blocks = [{"type": "text", "text": text}] if text or not calls else []
        return {
            **_message(response, [*blocks, *map(_tool_use, calls)]),
            **_stop(choice),
            "usage": _usage(response["usage"]),
            **_sources(response),
        }

    def frames(self, event: Mapping[str, Any]) -> bytes:
        """Return the events for a chunk of a chat."""
        frames = b"" if self._started else self._start(event)
        for choice in event["choices"]:
            if text := choice["delta"].get("content"):
                if self._open != "text":
                    frames += self._next_block({"type": "text", "text": ""})
                frames += self._delta({"type": "text_delta", "text": text})
            for call in choice["delta"].get("tool_calls") or ():
                frames += self._call(call)
            if choice["finish_reason"] is not None:
                self._finish = _stop(choice)
                self._rag = _sources(event)
                frames += self._close_block()
        if not event["choices"]:  # the last chunk, with the token counts
            usage = _usage(event["usage"])
            frames += _event("message_delta", delta=self._finish, usage=usage, **self._rag)
            frames += _event("message_stop")
        return frames

    def failure(self, error: ApiError) -> bytes:
        """Return an error event."""
        return named_event("error", error_forms.anthropic(error))

    def end(self) -> bytes:
        """Return nothing: the last event was sent with the token counts."""
        return b""

    def _start(self, event: Mapping[str, Any]) -> bytes:
        self._started = True
        usage = {"input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 0}
        stop = {"stop_reason": None, "stop_sequence": None}
        return _event("message_start", message={**_message(event, []), **stop, "usage": usage})

    def _call(self, call: Mapping[str, Any]) -> bytes:
        """Return the events for a piece of a tool call."""
        frames = b""
        function = call["function"]
        if "id" in call:
            frames = self._next_block(
                {"type": "tool_use", "id": call["id"], "name": function["name"], "input": {}}
            )
        if function["arguments"]:
            delta = {"type": "input_json_delta", "partial_json": function["arguments"]}
            frames += self._delta(delta)
        return frames

    def _next_block(self, block: Mapping[str, Any]) -> bytes:
        closed = self._close_block()
        self._open = block["type"]
        return closed + _event("content_block_start", index=self._blocks, content_block=block)

    def _close_block(self) -> bytes:
        if self._open is None:
            return b""
        self._open = None
        self._blocks += 1
        return _event("content_block_stop", index=self._blocks - 1)

    def _delta(self, delta: Mapping[str, Any]) -> bytes:
        return _event("content_block_delta", index=self._blocks, delta=delta)


def _event(name: str, /, **fields: Any) -> bytes:
    return named_event(name, {"type": name, **fields})


def _message(response: Mapping[str, Any], content: list[Any]) -> dict[str, Any]:
    return {
        "id": response["id"].replace("chatcmpl-", "msg_"),
        "type": "message",
        "role": "assistant",
        "model": response["model"],
        "content": content,
    }


def _tool_use(call: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tool call with its arguments as an object; empty if the answer was cut in them."""
    function = call["function"]
    try:
        arguments = orjson.loads(function["arguments"])
    except orjson.JSONDecodeError:
        arguments = {}
    return {"type": "tool_use", "id": call["id"], "name": function["name"], "input": arguments}


def _stop(choice: Mapping[str, Any]) -> dict[str, Any]:
    """Return the reason why the message ended, and the stop string if it was one."""
    stop = choice["stop_reason"]
    if isinstance(stop, str):
        return {"stop_reason": "stop_sequence", "stop_sequence": stop}
    words = {"length": "max_tokens", "tool_calls": "tool_use"}
    return {"stop_reason": words.get(choice["finish_reason"], "end_turn"), "stop_sequence": None}


def _usage(usage: Mapping[str, Any]) -> dict[str, int]:
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return {
        "input_tokens": max(0, usage["prompt_tokens"] - cached),
        "cache_read_input_tokens": cached,
        "output_tokens": usage["completion_tokens"],
    }


def _sources(response: Mapping[str, Any]) -> dict[str, Any]:
    return {"rag": response["rag"]} if "rag" in response else {}
