"""Parser of conversation messages: roles, text parts, tool calls and their results."""

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
    """Message of a conversation.

    Attributes:
        role: ``system``, ``user`` or ``assistant``; tool results have the role ``user``.
        content: the text.
        tool: whether the turn is a tool call or a tool result; both are never in the loss.
    """

    role: str
    content: str
    tool: bool = False


def read(fields: RecordFields, message: Any, name: str) -> Turn:
    """Return the turn of a ``{"role", "content"}`` or ``{"from", "value"}`` message.

    Args:
        fields: record of the message.
        message: the message.
        name: name of the message, for errors.

    Raises:
        InputError: the message is invalid; the error has its name, its value and the valid forms.
    """
    known = message if isinstance(message, Mapping) else {}
    role_key, key = ("from", "value") if "from" in known else ("role", "content")
    calls = next((known[name] for name in _CALL_KEYS if known.get(name)), None)
    if role_key not in known or (key not in known and calls is None):
        raise fields.wrong(message, name, "{'role': 'user', 'content': 'text'}")
    role = known[role_key]
    content = known.get(key)
    if role in _RESULTS:
        return Turn("user", _tool_text(fields, content, name), tool=True)
    if role in _CALLS:
        return Turn("assistant", _tool_text(fields, content, name), tool=True)
    if not isinstance(role, str) or role not in _ROLES:
        expected = ", ".join((*_ROLES, *_CALLS, *_RESULTS))
        raise fields.error(f"{name} has role {short(role)}; expected {expected}")
    if _ROLES[role] == "assistant" and calls is not None:
        spoken = [] if content is None else [joined(fields, content, name)]
        text = "\n".join(text for text in (*spoken, _calls_text(calls)) if text)
        return Turn("assistant", fields.text(text, name), tool=True)
    text = joined(fields, content, name)
    check = fields.string if _ROLES[role] == "system" else fields.text
    return Turn(_ROLES[role], check(text, name))


def joined(fields: RecordFields, content: Any, name: str) -> Any:
    """Join a content of ``{"type": "text", "text": ...}`` parts; return other contents unchanged.

    Raises:
        InputError: a part is no text, such as an image.
    """
    if not isinstance(content, list | tuple) or not content:
        return content
    return "".join(_part(fields, part, f"{name}.content[{i}]") for i, part in enumerate(content))


def _part(fields: RecordFields, part: Any, name: str) -> str:
    if isinstance(part, Mapping) and part.get("type", "text") == "text":
        return fields.string(part.get("text"), name)
    if isinstance(part, Mapping):
        raise fields.error(f"{name} has type {short(part['type'])}; expected 'text'")
    return fields.string(part, name)


def _tool_text(fields: RecordFields, content: Any, name: str) -> str:
    """Return the text of a tool turn, possibly empty; other values become JSON."""
    if content is None or _is_parts(content):
        content = joined(fields, content, name) or ""
    if not isinstance(content, str):
        content = json.dumps(content, ensure_ascii=False, default=str)
    return fields.string(content, name)


def _is_parts(content: Any) -> bool:
    listed = isinstance(content, list | tuple)
    return listed and all(isinstance(part, Mapping) and "type" in part for part in content)


def _calls_text(calls: Any) -> str:
    """Return the calls as JSON lines, each with name and arguments."""
    many: Sequence[Any] = calls if isinstance(calls, list | tuple) else [calls]
    found = [call.get("function", call) if isinstance(call, Mapping) else call for call in many]
    return "\n".join(json.dumps(call, ensure_ascii=False, default=str) for call in found)
