"""Formats of tool calls in generated text, and their grammars.

A model writes calls as it was trained to. The format of Hermes, which Qwen and SmolLM3 use too, is
the one of models whose chat template has none: ``<tool_call>``, a JSON object with ``name`` and
``arguments``, ``</tool_call>``. The formats of other families are in
:mod:`gritlm.lm.tools.native_formats`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from gritlm.errors import InputError
from gritlm.lm.grammar.formats import OutputFormat, json_rule
from gritlm.lm.tools.definitions import Tool, ToolChoice

BEGIN = "<tool_call>"
END = "</tool_call>"


@dataclass(frozen=True)
class CallFormat:
    """Format of calls: its grammar, and what a parser has to know of it.

    The rules are in the dialect of Lark that llguidance compiles; ``function`` is the rule of a
    call to any tool, ``TEXT`` is any text.

    Attributes:
        name: name of the format.
        begin: text before calls; empty if an answer is either calls or text.
        head: regular expression of a call from there to its arguments; its group is the name.
        tail: regular expression of the text behind arguments.
        listed: whether another head may follow a tail; otherwise text or ``begin`` does.
        function: rule of a call to one tool, with ``NAME`` and ``ARGUMENTS`` in their places.
        rules: further rules.
        one: rule of an answer that is one call.
        many: rule of an answer that is one or several calls.
        text_or_one: rule of an answer that is text, one call, or both.
        text_or_many: rule of an answer that is text, calls, or both.
        special_ids: ids of the special tokens in this format, which the text of an answer shows.
        short_ids: whether the ids of calls have nine letters and digits.
    """

    name: str
    begin: str
    head: str
    tail: str
    function: str
    rules: str
    one: str
    many: str
    text_or_one: str
    text_or_many: str
    listed: bool = False
    special_ids: tuple[int, ...] = ()
    short_ids: bool = False

    def new_id(self) -> str:
        """Return a new id of a call."""
        return uuid4().hex[:9] if self.short_ids else f"call_{uuid4().hex[:24]}"


HERMES = CallFormat(
    name="hermes",
    begin=BEGIN,
    head=r'\s*\{"name": "([^"]*)", "arguments": (?=\{)',
    tail=rf"[\s\S]*?{END}",
    function=r'"{\"name\": \"NAME\", \"arguments\": " ARGUMENTS "}"',
    rules=f"""BREAK: /\\n?/
call: "{BEGIN}" body
body: BREAK function BREAK "{END}"
mention[lazy]: TEXT "{BEGIN}"
""",
    one="call",
    many="call (BREAK call)*",
    text_or_one="mention body | TEXT",
    text_or_many="(mention body)* TEXT",
)


def call_text(name: str, arguments: Mapping[str, Any] | str) -> str:
    """Return the text of a call in the format of Hermes.

    Args:
        name: name of the tool.
        arguments: arguments, or a text of the client that is no JSON object.
    """
    call = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"{BEGIN}\n{call}\n{END}"


def calls_format(
    choice: ToolChoice, answer: OutputFormat | None = None, calls: CallFormat = HERMES
) -> OutputFormat:
    """Return the format of an answer that may or must have calls.

    Text and calls are mixed freely in an answer without another format: from the beginning of a
    call on, it has to be a call.

    Args:
        choice: the calls that the answer may have.
        answer: format of an answer without calls; None for any text.
        calls: format of the calls.

    Raises:
        InputError: for a schema that is invalid or too large.
    """
    functions = " | ".join(f"function_{n}" for n in range(len(choice.tools)))
    rules = [f"start: {_start(choice, answer, calls)}\n", calls.rules, "TEXT: /(.|\\n)*/\n"]
    rules += [f"function: {functions}\n"]
    rules += [_function(n, tool, calls) for n, tool in enumerate(choice.tools)]
    if answer is not None and not choice.required:
        rules.append(_as_answer(answer))
    return OutputFormat("".join(rules))


def _start(choice: ToolChoice, answer: OutputFormat | None, calls: CallFormat) -> str:
    only_calls = calls.many if choice.parallel else calls.one
    if choice.required:
        return only_calls
    if answer is not None:
        return f"{only_calls} | answer"
    return calls.text_or_many if choice.parallel else calls.text_or_one


def _function(number: int, tool: Tool, calls: CallFormat) -> str:
    try:
        arguments = json_rule({**tool.parameters, "type": "object"}, strict=tool.strict)
    except InputError as error:
        raise InputError(f"the parameters of the tool '{tool.name}': {error}") from None
    before, _, behind = calls.function.replace("NAME", tool.name).partition("ARGUMENTS")
    return f"function_{number}: {before} {arguments} {behind}\n"


def _as_answer(answer: OutputFormat) -> str:
    """Return the rule of a JSON format under another name."""
    first, found, rule = answer.lark.partition("start: %json ")
    if first or not found:
        raise InputError(
            "tools and an output format other than JSON exclude each other; set tool_choice='none' "
            "or leave the format out"
        )
    return f"answer: %json {rule}"
