"""Parsers of conversation records: TRL, ShareGPT, Alpaca and GritLM, one function for each form."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from gritlm.lm.tools.prompt import with_tools
from gritlm.train.data import turns
from gritlm.train.data.examples import ChatExample
from gritlm.train.data.fields import RecordFields
from gritlm.train.data.turns import Turn

KNOWN = (
    "{messages}, {prompt, completion}, {conversations}, {instruction, input, output}, "
    "{text: [user, assistant, ...]}"
)


def _messages(fields: RecordFields) -> ChatExample:
    return _chat(fields, _turns(fields, "messages"))


def _prompt_completion(fields: RecordFields) -> ChatExample:
    prompt = fields.values["prompt"]
    completion = fields.values["completion"]
    if isinstance(prompt, str) and isinstance(completion, str):
        return _chat(
            fields, [_turn(fields, "user", "prompt"), _turn(fields, "assistant", "completion")]
        )
    if isinstance(prompt, str) or isinstance(completion, str):
        raise fields.error("prompt and completion are a text and a list; expected two of a kind")
    completed = _turns(fields, "completion")
    _chat(fields, completed)  # the completion must have an answer of its own
    return _chat(fields, [*_turns(fields, "prompt"), *completed])


def _sharegpt(fields: RecordFields) -> ChatExample:
    return _chat(fields, [*_system(fields), *_turns(fields, "conversations")])


def _alpaca(fields: RecordFields) -> ChatExample:
    """Parse an Alpaca record; ``system`` and ``history`` as in LLaMA-Factory."""
    question = _turn(fields, "user", "instruction")
    if fields.string(fields.values.get("input", ""), "input").strip():
        question = replace(question, content=f"{question.content}\n\n{fields.values['input']}")
    answer = _turn(fields, "assistant", "output")
    return _chat(fields, [*_system(fields), *_history(fields), question, answer])


def _history(fields: RecordFields) -> list[Turn]:
    history = fields.values.get("history", [])
    turn_list = list[Turn]()
    if not isinstance(history, list | tuple):
        raise fields.wrong(history, "history", "a list of [question, answer]")
    for index, pair in enumerate(history):
        name = f"history[{index}]"
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise fields.wrong(pair, name, "[question, answer]")
        turn_list += _alternating(fields, pair, name)
    return turn_list


def _gritlm(fields: RecordFields) -> ChatExample:
    value = fields.values["text"]
    if isinstance(value, str):
        raise fields.error(
            "text is one text; expected a list [user, assistant, user, ...]: "
            "text without turns has no answer to train"
        )
    return _chat(fields, _alternating(fields, fields.items(value, "text", of="texts"), "text"))


def _alternating(fields: RecordFields, texts: Sequence[Any], name: str) -> list[Turn]:
    return [
        Turn(("user", "assistant")[index % 2], fields.text(text, f"{name}[{index}]"))
        for index, text in enumerate(texts)
    ]


def _turn(fields: RecordFields, role: str, key: str) -> Turn:
    return Turn(role, fields.text(fields.values[key], key))


def _system(fields: RecordFields) -> list[Turn]:
    return [Turn("system", fields.string(fields.values.get("system", ""), "system"))]


def _turns(fields: RecordFields, key: str) -> list[Turn]:
    messages = fields.items(fields.values[key], key, of="messages")
    return [turns.read(fields, each, f"{key}[{index}]") for index, each in enumerate(messages)]


def _chat(fields: RecordFields, turn_list: Sequence[Turn]) -> ChatExample:
    """Return the example up to its last answer, without empty system messages."""
    answers = [i for i, turn in enumerate(turn_list) if turn.role == "assistant" and not turn.tool]
    if not answers:
        raise fields.error("no turn is an answer of the assistant; expected at least one to train")
    kept = [t for t in turn_list[: answers[-1] + 1] if t.role != "system" or t.content.strip()]
    merged = list(_with_results_joined(kept))
    plain = [{"role": turn.role, "content": turn.content} for turn in merged]
    messages = with_tools(plain, turns.tools_of(fields))
    added = len(messages) - len(plain)
    calls = [i for i, turn in enumerate(merged) if turn.role == "assistant" and turn.tool]
    return ChatExample(tuple(messages), tuple(added + i for i in calls))


def _with_results_joined(turn_list: Sequence[Turn]) -> Iterator[Turn]:
    """Join consecutive tool results: chat templates expect user and assistant to alternate."""
    for is_result, group in groupby(turn_list, lambda turn: turn.role == "user" and turn.tool):
        if is_result:
            yield Turn("user", "\n".join(turn.content for turn in group), tool=True)
        else:
            yield from group


# Keys that identify a form, and its parser; the first match is used.
FORMS: Sequence[tuple[tuple[str, ...], Callable[[RecordFields], ChatExample]]] = (
    (("messages",), _messages),
    (("prompt", "completion"), _prompt_completion),
    (("conversations",), _sharegpt),
    (("instruction", "output"), _alpaca),
    (("text",), _gritlm),
)
