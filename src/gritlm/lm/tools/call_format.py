"""Text of tool calls: the Hermes format, which Qwen and SmolLM3 use too, and its grammar.

A call is ``<tool_call>``, a JSON object with ``name`` and ``arguments``, ``</tool_call>``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from gritlm.errors import InputError
from gritlm.lm.grammar.formats import OutputFormat, json_rule, quoted
from gritlm.lm.tools.definitions import Tool, ToolChoice

BEGIN = "<tool_call>"
END = "</tool_call>"

_RULES = f"""BREAK: /\\n?/
call: "{BEGIN}" body
body: BREAK function BREAK "{END}"
"""


def call_text(name: str, arguments: Mapping[str, Any] | str) -> str:
    """Return the text of a call.

    Args:
        name: name of the tool.
        arguments: arguments, or a text of the client that is no JSON object.
    """
    call = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"{BEGIN}\n{call}\n{END}"


def calls_format(choice: ToolChoice, answer: OutputFormat | None = None) -> OutputFormat:
    """Return the format of an answer that may or must have calls.

    Text and calls are mixed freely in an answer without another format: from ``<tool_call>`` on,
    it has to be a call.

    Args:
        choice: the calls that the answer may have.
        answer: format of an answer without calls; None for any text.

    Raises:
        InputError: for a schema that is invalid or too large.
    """
    functions = " | ".join(f"function_{n}" for n in range(len(choice.tools)))
    rules = [_start(choice, answer), _RULES, f"function: {functions}\n"]
    rules += [_function(n, tool) for n, tool in enumerate(choice.tools)]
    return OutputFormat("".join(rules))


def _start(choice: ToolChoice, answer: OutputFormat | None) -> str:
    more = "(BREAK call)*" if choice.parallel else ""
    if choice.required:
        return f"start: call {more}\n"
    if answer is not None:
        return f"start: call {more} | answer\n{_as_answer(answer)}"
    texts = "(mention body)* TEXT" if choice.parallel else "mention body | TEXT"
    return f'start: {texts}\nmention[lazy]: TEXT "{BEGIN}"\nTEXT: /(.|\\n)*/\n'


def _function(number: int, tool: Tool) -> str:
    head = quoted('{"name": ' + quoted(tool.name) + ', "arguments": ')
    try:
        arguments = json_rule({**tool.parameters, "type": "object"}, strict=tool.strict)
    except InputError as error:
        raise InputError(f"the parameters of the tool '{tool.name}': {error}") from None
    return f'function_{number}: {head} {arguments} "}}"\n'


def _as_answer(answer: OutputFormat) -> str:
    """Return the rule of a JSON format under another name."""
    first, found, rule = answer.lark.partition("start: %json ")
    if first or not found:
        raise InputError(
            "tools and an output format other than JSON exclude each other; set tool_choice='none' "
            "or leave the format out"
        )
    return f"answer: %json {rule}"
