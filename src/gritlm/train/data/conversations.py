"""Conversations as users have them -> rows: one function a form."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from gritlm.train.data import turns
from gritlm.train.data.examples import ChatExample
from gritlm.train.data.fields import RecordFields
from gritlm.train.data.turns import Turn

KNOWN = (
    "{messages}, {prompt, completion}, {conversations}, {instruction, input, output}, "
    "{text: [user, assistant, ...]}"
)


def _messages(given: RecordFields) -> ChatExample:
    return _chat(given, _turns(given, "messages"))


def _prompt_completion(given: RecordFields) -> ChatExample:
    prompt = given.values["prompt"]
    completion = given.values["completion"]
    if isinstance(prompt, str) and isinstance(completion, str):
        return _chat(
            given, [_said(given, "user", "prompt"), _said(given, "assistant", "completion")]
        )
    if isinstance(prompt, str) or isinstance(completion, str):
        raise given.error("prompt and completion are a text and a list; expected two of a kind")
    completed = _turns(given, "completion")
    _chat(given, completed)  # it has an answer of its own
    return _chat(given, [*_turns(given, "prompt"), *completed])


def _sharegpt(given: RecordFields) -> ChatExample:
    return _chat(given, [*_system(given), *_turns(given, "conversations")])


def _alpaca(given: RecordFields) -> ChatExample:
    """``input`` stands behind the instruction; ``system`` and ``history`` as in LLaMA-Factory."""
    asked = _said(given, "user", "instruction")
    if given.string(given.values.get("input", ""), "input").strip():
        asked = replace(asked, content=f"{asked.content}\n\n{given.values['input']}")
    answered = _said(given, "assistant", "output")
    return _chat(given, [*_system(given), *_history(given), asked, answered])


def _history(given: RecordFields) -> list[Turn]:
    history = given.values.get("history", [])
    said = list[Turn]()
    if not isinstance(history, list | tuple):
        raise given.wrong(history, "history", "a list of [question, answer]")
    for index, pair in enumerate(history):
        what = f"history[{index}]"
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise given.wrong(pair, what, "[question, answer]")
        said += _alternating(given, pair, what)
    return said


def _gritlm(given: RecordFields) -> ChatExample:
    value = given.values["text"]
    if isinstance(value, str):
        raise given.error(
            "text is one text; expected a list [user, assistant, user, ...]: "
            "text without turns has no answer to train"
        )
    return _chat(given, _alternating(given, given.items(value, "text", of="texts"), "text"))


def _alternating(given: RecordFields, texts: Sequence[Any], what: str) -> list[Turn]:
    return [
        Turn(("user", "assistant")[index % 2], given.text(text, f"{what}[{index}]"))
        for index, text in enumerate(texts)
    ]


def _said(given: RecordFields, role: str, key: str) -> Turn:
    return Turn(role, given.text(given.values[key], key))


def _system(given: RecordFields) -> list[Turn]:
    return [Turn("system", given.string(given.values.get("system", ""), "system"))]


def _turns(given: RecordFields, key: str) -> list[Turn]:
    messages = given.items(given.values[key], key, of="messages")
    return [turns.read(given, each, f"{key}[{index}]") for index, each in enumerate(messages)]


def _chat(given: RecordFields, said: Sequence[Turn]) -> ChatExample:
    """Return the row up to its last answer; empty system messages are left out."""
    answers = [i for i, turn in enumerate(said) if turn.role == "assistant" and not turn.tool]
    if not answers:
        raise given.error("no turn is an answer of the assistant; expected at least one to train")
    kept = [t for t in said[: answers[-1] + 1] if t.role != "system" or t.content.strip()]
    merged = list(_with_results_joined(kept))
    return ChatExample(
        tuple({"role": turn.role, "content": turn.content} for turn in merged),
        tuple(i for i, turn in enumerate(merged) if turn.role == "assistant" and turn.tool),
    )


def _with_results_joined(said: Sequence[Turn]) -> Iterator[Turn]:
    """Results of several tools are one turn: templates expect user and assistant by turns."""
    for is_result, group in groupby(said, lambda turn: turn.role == "user" and turn.tool):
        if is_result:
            yield Turn("user", "\n".join(turn.content for turn in group), tool=True)
        else:
            yield from group


# Keys that tell a form, and the function that reads it; the first that fits is taken.
FORMS: Sequence[tuple[tuple[str, ...], Callable[[RecordFields], ChatExample]]] = (
    (("messages",), _messages),
    (("prompt", "completion"), _prompt_completion),
    (("conversations",), _sharegpt),
    (("instruction", "output"), _alpaca),
    (("text",), _gritlm),
)
