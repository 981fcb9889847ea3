"""Messages of conversations -> turns: roles, text parts, tool calls and their results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from reprlib import repr as short
from typing import Any

from gritlm.train.data.fields import RecordFields

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
}
_CALLS = ("function_call", "tool_call")  # roles of ShareGPT, as LLaMA-Factory reads it
_RESULTS = ("tool", "observation", "function", "function_response", "ipython")
_CALL_KEYS = ("tool_calls", "function_call")  # keys of an OpenAI message of the assistant


@dataclass(frozen=True)
class Turn:
    """One message of a conversation.

    Attributes:
        role: ``system``, ``user`` or ``assistant``; the result of a tool is the user's.
        tool: whether it is a tool call or the result of one. Both are context: never in the loss.
    """

    role: str
    content: str
    tool: bool = False


def read(given: RecordFields, message: Any, what: str) -> Turn:
    """Return the turn of ``{"role", "content"}`` or ``{"from", "value"}``.

    Raises:
        InputError: naming the message, what came and what was expected.
    """
    known = message if isinstance(message, Mapping) else {}
    role_key, key = ("from", "value") if "from" in known else ("role", "content")
    calls = next((known[name] for name in _CALL_KEYS if known.get(name)), None)
    if role_key not in known or (key not in known and calls is None):
        raise given.wrong(message, what, "{'role': 'user', 'content': 'text'}")
    role = known[role_key]
    content = known.get(key)
    if role in _RESULTS:
        return Turn("user", _tool_text(given, content, what), tool=True)
    if role in _CALLS:
        return Turn("assistant", _tool_text(given, content, what), tool=True)
    if not isinstance(role, str) or role not in _ROLES:
        expected = ", ".join((*_ROLES, *_CALLS, *_RESULTS))
        raise given.error(f"{what} has role {short(role)}; expected {expected}")
    if _ROLES[role] == "assistant" and calls is not None:
        spoken = [] if content is None else [joined(given, content, what)]
        text = "\n".join(text for text in (*spoken, _calls_text(calls)) if text)
        return Turn("assistant", given.text(text, what), tool=True)
    text = joined(given, content, what)
    check = given.string if _ROLES[role] == "system" else given.text
    return Turn(_ROLES[role], check(text, what))


def joined(given: RecordFields, content: Any, what: str) -> Any:
    """Return a content of ``{"type": "text", "text": ...}`` parts as one text, any other as it is.

    Raises:
        InputError: for a part that is no text, such as an image.
    """
    if not isinstance(content, list | tuple) or not content:
        return content
    return "".join(_part(given, part, f"{what}.content[{i}]") for i, part in enumerate(content))


def _part(given: RecordFields, part: Any, what: str) -> str:
    if isinstance(part, Mapping) and part.get("type", "text") == "text":
        return given.string(part.get("text"), what)
    if isinstance(part, Mapping):
        raise given.error(f"{what} has type {short(part['type'])}; expected 'text'")
    return given.string(part, what)


def _tool_text(given: RecordFields, content: Any, what: str) -> str:
    """Return a tool's text, which may be empty; a JSON value is written as JSON."""
    if content is None or _is_parts(content):
        content = joined(given, content, what) or ""
    if not isinstance(content, str):
        content = json.dumps(content, ensure_ascii=False, default=str)
    return given.string(content, what)


def _is_parts(content: Any) -> bool:
    listed = isinstance(content, list | tuple)
    return listed and all(isinstance(part, Mapping) and "type" in part for part in content)


def _calls_text(calls: Any) -> str:
    """Return one JSON object a line: the name and the arguments of each call."""
    many: Sequence[Any] = calls if isinstance(calls, list | tuple) else [calls]
    found = [call.get("function", call) if isinstance(call, Mapping) else call for call in many]
    return "\n".join(json.dumps(call, ensure_ascii=False, default=str) for call in found)
