"""Parser of conversation messages: roles, text parts, tool calls and their results.

Calls and results have the text that they have in the prompts of a server.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from reprlib import repr as short
from typing import Any

from gritlm.lm.media.inputs import Parts
from gritlm.lm.tools.definitions import Tool
from gritlm.lm.tools.prompt import result_text, text_with_calls
from gritlm.train.data.fields import RecordFields
from gritlm.train.data.media.row_media import AttachedMedia, has_media

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
        content: the text; the parts of a turn with images or sounds.
        tool: whether the turn is a tool call or a tool result; both are never in the loss.
    """

    role: str
    content: str | Parts
    tool: bool = False


def read(fields: RecordFields, message: Any, name: str, attached: AttachedMedia) -> Turn:
    """Return the turn of a ``{"role", "content"}`` or ``{"from", "value"}`` message.

    Args:
        fields: record of the message.
        message: the message.
        name: name of the message, for errors.
        attached: images and sounds that the record lists.

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
        return Turn("user", result_text(_tool_text(fields, content, name)), tool=True)
    if role in _CALLS:
        return _calls_turn(fields, "", _as_json(content), name)
    if not isinstance(role, str) or role not in _ROLES:
        expected = ", ".join((*_ROLES, *_CALLS, *_RESULTS))
        raise fields.error(f"{name} has role {short(role)}; expected {expected}")
    if _ROLES[role] == "assistant" and calls is not None:
        spoken = "" if content is None else fields.string(joined(fields, content, name), name)
        return _calls_turn(fields, spoken, calls, name)
    if _ROLES[role] == "user":
        parts = _with_media(fields, content, name, attached)
        if parts is not None:
            return Turn("user", parts)
    text = joined(fields, content, name)
    check = fields.string if _ROLES[role] == "system" else fields.text
    return Turn(_ROLES[role], check(text, name))


def _with_media(
    fields: RecordFields, content: Any, name: str, attached: AttachedMedia
) -> Parts | None:
    """Return the parts of a user's content with images or sounds; None for one without."""
    if has_media(content):
        return attached.of_parts(content, name)
    text = joined(fields, content, name)
    found = attached.of_text(text) if isinstance(text, str) else text
    return found if isinstance(found, tuple) else None


def tools_of(fields: RecordFields) -> list[Tool]:
    """Return the tools in the key ``tools`` of a record: a list, or the JSON text of one.

    Values that are null are left out: a table has them for the properties of other tools.

    Raises:
        InputError: for a tool without a name.
    """
    given = _as_json(fields.values.get("tools") or [])
    if not isinstance(given, list | tuple):
        raise fields.wrong(given, "tools", "a list of functions")
    return [_tool(fields, each, f"tools[{index}]") for index, each in enumerate(given)]


def _tool(fields: RecordFields, value: Any, name: str) -> Tool:
    function = value.get("function", value) if isinstance(value, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise fields.wrong(value, name, "{'name': 'add', 'parameters': {...}}")
    known = _without_nulls({key: function.get(key) for key in ("description", "parameters")})
    if not isinstance(known.get("parameters", {}), Mapping):
        raise fields.wrong(known["parameters"], f"{name}.parameters", "a JSON schema")
    return Tool(function["name"], **known)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    if isinstance(value, list | tuple):
        return [_without_nulls(each) for each in value]
    return value


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
        raise fields.error(
            f"{name} has type {short(part['type'])}; expected 'text' (images and sounds are taken "
            "in turns of the user)"
        )
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


def _calls_turn(fields: RecordFields, content: str, calls: Any, name: str) -> Turn:
    """Return the turn of one or several calls, each a function or an OpenAI call with one."""
    many: Sequence[Any] = calls if isinstance(calls, list | tuple) else [calls]
    found = [call.get("function", call) if isinstance(call, Mapping) else call for call in many]
    for call in found:
        if not isinstance(call, Mapping) or not isinstance(call.get("name"), str):
            raise fields.wrong(call, f"a call of {name}", "{'name': 'add', 'arguments': {'a': 2}}")
    functions = [{"name": call["name"], "arguments": _arguments(call)} for call in found]
    return Turn("assistant", fields.text(text_with_calls(content, functions), name), tool=True)


def _arguments(call: Mapping[str, Any]) -> Any:
    """Return the arguments of a call: an object, a JSON text, or nothing for an empty object."""
    given = call.get("arguments")
    return json.loads(json.dumps({} if given is None else given, default=str))


def _as_json(content: Any) -> Any:
    """Return the value of a JSON text; other values unchanged."""
    try:
        return json.loads(content) if isinstance(content, str) else content
    except (ValueError, RecursionError):
        return content
