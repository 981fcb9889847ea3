"""Responses of OpenAI's Responses API, and the named events of their streams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gritlm.serve.dialects.translation import named_event
from gritlm.serve.errors import ApiError


class ResponseDialect:
    """Responses with a message and function calls, and the events that build them up.

    Args:
        settings: fields of the request that a response repeats.
    """

    media_type = "text/event-stream"

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._number = 0
        self._items: list[dict[str, Any]] = []  # the last one is open until it is closed
        self._is_open = False
        self._annotations: list[dict[str, Any]] = []
        self._rag: dict[str, Any] = {}
        self._finish_reason: str | None = None

    def whole(self, response: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a complete response."""
        (choice,) = response["choices"]
        message = choice["message"]
        self._finish_reason = choice["finish_reason"]
        calls = message.get("tool_calls") or ()
        if message["content"] or not calls:
            item = _message(response)
            citations = list(map(_flat, message.get("annotations") or ()))
            item["content"] = [_text_part(message["content"] or "", citations)]
            self._items.append(item)
        for call in calls:
            self._items.append(_function_call(call))
            self._items[-1]["arguments"] = call["function"]["arguments"]
        return self._completed(response)

    def frames(self, event: Mapping[str, Any]) -> bytes:
        """Return the events for a chunk of a chat."""
        frames = b"" if self._number else self._start(event)
        for choice in event["choices"]:
            if text := choice["delta"].get("content"):
                frames += self._text(event, text)
            for call in choice["delta"].get("tool_calls") or ():
                frames += self._call(call)
            if choice["finish_reason"] is not None:
                self._finish_reason = choice["finish_reason"]
                self._annotations = list(map(_flat, choice["delta"].get("annotations") or ()))
                self._rag = {"rag": event["rag"]} if "rag" in event else {}
                frames += self._close_item()
        if not event["choices"]:  # the last chunk, with the token counts
            response = self._completed(event)
            frames += self._event(f"response.{response['status']}", response=response)
        return frames

    def failure(self, error: ApiError) -> bytes:
        """Return an error event."""
        fields = {"code": error.code, "message": error.message, "param": error.param}
        return self._event("error", **fields)

    def end(self) -> bytes:
        """Return nothing: the last event was sent with the token counts."""
        return b""

    def _start(self, chunk: Mapping[str, Any]) -> bytes:
        begun = self._response(chunk, "in_progress")
        return self._event("response.created", response=begun) + self._event(
            "response.in_progress", response=begun
        )

    def _text(self, chunk: Mapping[str, Any], text: str) -> bytes:
        """Return the events for new text of the message."""
        frames = b""
        if not self._is_open or self._items[-1]["type"] != "message":
            frames += self._next_item(_message(chunk))
            self._items[-1]["content"] = [_text_part("", [])]
            frames += self._part("response.content_part.added", part=_text_part("", []))
        self._items[-1]["content"][0]["text"] += text
        return frames + self._part("response.output_text.delta", delta=text, logprobs=[])

    def _call(self, call: Mapping[str, Any]) -> bytes:
        """Return the events for a piece of a function call."""
        frames = self._next_item(_function_call(call)) if "id" in call else b""
        arguments = call["function"]["arguments"]
        self._items[-1]["arguments"] += arguments
        if arguments:
            name = "response.function_call_arguments.delta"
            frames += self._of_item(name, delta=arguments)
        return frames

    def _next_item(self, item: dict[str, Any]) -> bytes:
        closed = self._close_item()
        self._items.append(item)
        self._is_open = True
        begun = {**item, "status": "in_progress"}
        return closed + self._event(
            "response.output_item.added", output_index=len(self._items) - 1, item=begun
        )

    def _close_item(self) -> bytes:
        """Return the events at the end of a message or a call."""
        if not self._is_open:
            return b""
        self._is_open = False
        item = self._items[-1]
        if self._finish_reason == "length":
            item["status"] = "incomplete"
        if item["type"] == "message":
            frames = self._close_text(item["content"][0])
        else:
            fields = {"name": item["name"], "arguments": item["arguments"]}
            frames = self._of_item("response.function_call_arguments.done", **fields)
        return frames + self._event(
            "response.output_item.done", output_index=len(self._items) - 1, item=item
        )

    def _close_text(self, part: dict[str, Any]) -> bytes:
        part["annotations"] = self._annotations
        frames = b""
        for number, annotation in enumerate(self._annotations):
            frames += self._part(
                "response.output_text.annotation.added",
                annotation_index=number,
                annotation=annotation,
            )
        frames += self._part("response.output_text.done", text=part["text"], logprobs=[])
        return frames + self._part("response.content_part.done", part=part)

    def _completed(self, chunk: Mapping[str, Any]) -> dict[str, Any]:
        status = "incomplete" if self._finish_reason == "length" else "completed"
        if status == "incomplete" and self._items:
            self._items[-1]["status"] = status
        rag = {"rag": chunk["rag"]} if "rag" in chunk else self._rag
        response = self._response(chunk, status)
        return {**response, "output": self._items, "usage": _usage(chunk["usage"]), **rag}

    def _response(self, chunk: Mapping[str, Any], status: str) -> dict[str, Any]:
        cut = {"reason": "max_output_tokens"} if status == "incomplete" else None
        return {
            "id": chunk["id"].replace("chatcmpl-", "resp_"),
            "object": "response",
            "created_at": chunk["created"],
            "status": status,
            "error": None,
            "incomplete_details": cut,
            "model": chunk["model"],
            "output": [],
            "usage": None,
            **self._settings,
        }

    def _part(self, name: str, /, **fields: Any) -> bytes:
        """Return an event about the text of the open message."""
        return self._of_item(name, content_index=0, **fields)

    def _of_item(self, name: str, /, **fields: Any) -> bytes:
        """Return an event about the last item."""
        place = {"item_id": self._items[-1]["id"], "output_index": len(self._items) - 1}
        return self._event(name, **place, **fields)

    def _event(self, name: str, /, **fields: Any) -> bytes:
        number = self._number
        self._number += 1
        return named_event(name, {"type": name, "sequence_number": number, **fields})


def _message(chunk: Mapping[str, Any]) -> dict[str, Any]:
    identity = chunk["id"].replace("chatcmpl-", "msg_")
    head = {"id": identity, "type": "message", "role": "assistant"}
    return {**head, "status": "completed", "content": []}


def _function_call(call: Mapping[str, Any]) -> dict[str, Any]:
    """Return a call without its arguments."""
    return {
        "id": call["id"].replace("call_", "fc_"),
        "type": "function_call",
        "status": "completed",
        "call_id": call["id"],
        "name": call["function"]["name"],
        "arguments": "",
    }


def _text_part(text: str, annotations: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": annotations, "logprobs": []}


def _flat(annotation: Mapping[str, Any]) -> dict[str, Any]:
    """Return a citation of a chat as one of a response, whose fields are not nested."""
    return {"type": annotation["type"], **annotation["url_citation"]}


def _usage(usage: Mapping[str, Any]) -> dict[str, Any]:
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage["total_tokens"],
    }
