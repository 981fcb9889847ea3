"""Prompts with tools: by the model's chat template if its format is known, else plain turns.

Messages have the form of OpenAI's API: the assistant's may have ``tool_calls``, and the result of a
call is a message with the role ``tool``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from gritlm.lm.chat import Message, chat_ids
from gritlm.lm.chat_template import NO_VARIABLES, render
from gritlm.lm.tokens import SegmentTokenizer
from gritlm.lm.tools.call_format import BEGIN, END, HERMES, CallFormat, call_text
from gritlm.lm.tools.definitions import Tool
from gritlm.lm.tools.native_formats import native_format

ToolMessage = Mapping[str, Any]

_SHORT_ID = re.compile(r"[a-zA-Z0-9]{9}")


def tool_chat_ids(
    tokens: SegmentTokenizer,
    messages: Sequence[ToolMessage],
    tools: Sequence[Tool],
    *,
    template: str,
    variables: Mapping[str, Any] = NO_VARIABLES,
) -> list[int]:
    """Return the token ids of a conversation with tools, ready for the model to answer.

    Args:
        tokens: the tokenizer.
        messages: the conversation.
        tools: the tools that the model may call; they are listed in the prompt.
        template: ``gritlm`` or ``tokenizer``.
        variables: further variables of the tokenizer's chat template.

    Raises:
        InputError: for an invalid conversation.
    """
    if not tools and not any(map(_is_of_tools, messages)):
        turns = [dict(message) for message in messages]
        return chat_ids(tokens, turns, template=template, variables=variables)
    native = _native(tokens, messages, tools, template)
    if native is not None:
        listed = [tool.as_openai() for tool in tools]
        turns = [_for_template(message, native) for message in messages]
        text = render(
            tokens.tokenizer, turns, answer=True, tools=listed or None, variables=variables
        )
        return tokens.markup(text)
    plain = plain_turns(messages, tools)
    return chat_ids(tokens, plain, template=template, variables=variables)


def call_format_of(
    tokens: SegmentTokenizer,
    messages: Sequence[ToolMessage],
    tools: Sequence[Tool],
    *,
    template: str,
) -> CallFormat:
    """Return the format in which the answer to the prompt of :func:`tool_chat_ids` has its calls.

    Args:
        tokens: the tokenizer.
        messages: the conversation.
        tools: the tools that the model may call.
        template: ``gritlm`` or ``tokenizer``.
    """
    return _native(tokens, messages, tools, template) or HERMES


def plain_turns(messages: Sequence[ToolMessage], tools: Sequence[Tool]) -> list[Message]:
    """Return a conversation whose tools, calls and results are text, for any chat template.

    The tools are listed in the system's turn, calls are text of the assistant, and the results of
    its calls are one turn of the user.

    Args:
        messages: the conversation.
        tools: the tools that the model may call.
    """
    turns: list[Message] = []
    follows_result = False
    for message in messages:
        is_result = message["role"] == "tool"
        turn = _plain(message)
        if is_result and follows_result:
            turns[-1]["content"] += "\n" + turn["content"]
        else:
            turns.append(turn)
        follows_result = is_result
    return with_tools(turns, tools)


def with_tools(turns: Sequence[Message], tools: Sequence[Tool]) -> list[Message]:
    """Return plain turns with the tools listed in the system's turn, which is added if needed.

    Args:
        turns: the turns.
        tools: the tools; an empty list changes nothing.
    """
    if not tools:
        return list(turns)
    has_system = bool(turns) and turns[0]["role"] == "system"
    first = turns[0]["content"] if has_system else ""
    instruction = tools_text(tools)
    content = f"{first}\n\n{instruction}" if first else instruction
    return [{"role": "system", "content": content}, *turns[has_system:]]


def tools_text(tools: Sequence[Tool]) -> str:
    """Return the instruction that lists tools, for chat templates that do not list them.

    Args:
        tools: the tools.
    """
    listed = "\n".join(json.dumps(tool.as_openai(), ensure_ascii=False) for tool in tools)
    return (
        "You may call one or more functions to assist with the user query.\n"
        f"The functions, as JSON within <tools></tools>:\n<tools>\n{listed}\n</tools>\n"
        f"For each call, return a JSON object with its name and arguments within {BEGIN}{END}:\n"
        f'{BEGIN}\n{{"name": <function name>, "arguments": <arguments as JSON>}}\n{END}'
    )


def text_with_calls(content: str, functions: Sequence[Mapping[str, Any]]) -> str:
    """Return the text of an assistant's turn: its content, and the calls below.

    Args:
        content: text of the turn; may be empty.
        functions: name and arguments of each call; the arguments are an object, or its JSON.
    """
    calls = [call_text(each["name"], _parsed(each["arguments"])) for each in functions]
    return "\n".join(filter(None, [content, *calls]))


def result_text(content: str) -> str:
    """Return the text of a call's result. The results of several calls are joined by newlines."""
    return f"<tool_response>\n{content}\n</tool_response>"


def _is_of_tools(message: ToolMessage) -> bool:
    return message["role"] == "tool" or bool(message.get("tool_calls"))


def _plain(message: ToolMessage) -> Message:
    content = message.get("content") or ""
    if message["role"] == "tool":
        return {"role": "user", "content": result_text(content)}
    functions = [call["function"] for call in message.get("tool_calls") or ()]
    return {"role": message["role"], "content": text_with_calls(content, functions)}


def _native(
    tokens: SegmentTokenizer,
    messages: Sequence[ToolMessage],
    tools: Sequence[Tool],
    template: str,
) -> CallFormat | None:
    """Return the format of the chat template; None where the turns are plain.

    A template cannot mark special tokens inside of messages, arguments and descriptions as text.
    """
    native = native_format(tokens.tokenizer) if template == "tokenizer" else None
    if native is None:
        return None
    listed = [tool.as_openai() for tool in tools]
    everything = json.dumps([*map(dict, messages), listed], ensure_ascii=False)
    return None if tokens.has_special(everything) else native


def _for_template(message: ToolMessage, native: CallFormat) -> dict[str, Any]:
    """Return a message whose arguments are objects, as chat templates of transformers expect."""
    turn = {**message, "content": message.get("content") or ""}
    if message.get("tool_calls"):
        turn["tool_calls"] = [
            {**call, "function": _with_objects(call["function"])} for call in message["tool_calls"]
        ]
    if native.short_ids:
        for each in (turn, *(turn.get("tool_calls") or ())):
            each |= {key: _short_id(each[key]) for key in ("id", "tool_call_id") if each.get(key)}
    return turn


def _short_id(call_id: str) -> str:
    """Return an id of nine letters and digits, the same one for the same id of a client."""
    short = _SHORT_ID.fullmatch(call_id) is not None
    return call_id if short else sha256(call_id.encode(errors="replace")).hexdigest()[:9]


def _with_objects(function: Mapping[str, Any]) -> dict[str, Any]:
    return {**function, "arguments": _parsed(function["arguments"])}


def _parsed(arguments: Any) -> Any:
    if not isinstance(arguments, str):
        return arguments
    try:
        found = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    return found if isinstance(found, dict) else arguments
