"""Prompts with tools: by the model's chat template if it writes calls as we do, else plain turns.

Messages have the form of OpenAI's API: the assistant's may have ``tool_calls``, and the result of a
call is a message with the role ``tool``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from gritlm.lm.chat import Message, chat_ids
from gritlm.lm.chat_template import NO_VARIABLES, has_own_code, render
from gritlm.lm.tokens import SegmentTokenizer
from gritlm.lm.tools.call_format import BEGIN, END, call_text
from gritlm.lm.tools.definitions import Tool

ToolMessage = Mapping[str, Any]


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
    if template == "tokenizer" and _has_calls(tokens.tokenizer):
        listed = [tool.as_openai() for tool in tools]
        turns = [_for_template(message) for message in messages]
        # A template cannot mark special tokens inside of arguments and descriptions as text.
        everything = json.dumps([turns, listed], ensure_ascii=False)
        if not any(special in everything for special in tokens.tokenizer.all_special_tokens):
            text = render(
                tokens.tokenizer, turns, answer=True, tools=listed or None, variables=variables
            )
            return tokens.markup(text)
    plain = plain_turns(messages, tools)
    return chat_ids(tokens, plain, template=template, variables=variables)


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


def _for_template(message: ToolMessage) -> dict[str, Any]:
    """Return a message whose arguments are objects, as chat templates of transformers expect."""
    turn = {**message, "content": message.get("content") or ""}
    if message.get("tool_calls"):
        turn["tool_calls"] = [
            {**call, "function": _with_objects(call["function"])} for call in message["tool_calls"]
        ]
    return turn


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


def _has_calls(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether a chat template lists tools, and writes calls as this package does."""
    if tokenizer.chat_template is None or has_own_code(tokenizer):
        return False
    source = tokenizer.get_chat_template(tools=[{}])
    return BEGIN in source and "tools" in source and "tool_calls" in source
