"""Parsers of conversation records: TRL, ShareGPT, Alpaca and GritLM, one function for each form."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

from gritlm.lm.tools.prompt import with_tools
from gritlm.train.data import turns
from gritlm.train.data.examples import ChatExample
from gritlm.train.data.fields import RecordFields
from gritlm.train.data.media.row_media import AttachedMedia
from gritlm.train.data.turns import Turn

KNOWN = (
    "{messages}, {prompt, completion}, {conversations}, {instruction, input, output}, "
    "{text: [user, assistant, ...]}, {image, conversations}"
)


def _messages(fields: RecordFields) -> ChatExample:
    attached = AttachedMedia(fields)
    return _chat(fields, _turns(fields, "messages", attached), attached)


def _prompt_completion(fields: RecordFields) -> ChatExample:
    prompt = fields.values["prompt"]
    completion = fields.values["completion"]
    attached = AttachedMedia(fields)
    if isinstance(prompt, str) and isinstance(completion, str):
        question = _question(fields, "prompt", attached)
        return _chat(fields, [question, _answer(fields, "completion")], attached)
    if isinstance(prompt, str) or isinstance(completion, str):
        raise fields.error("prompt and completion are a text and a list; expected two of a kind")
    prompted = _turns(fields, "prompt", attached)
    completed = _turns(fields, "completion", attached)
    _chat(fields, completed, attached)  # the completion must have an answer of its own
    return _chat(fields, [*prompted, *completed], attached)


def _sharegpt(fields: RecordFields) -> ChatExample:
    """Parse a record of ShareGPT, or of LLaVA, which lists images in the key ``image``."""
    attached = AttachedMedia(fields)
    turn_list = [*_system(fields), *_turns(fields, "conversations", attached)]
    return _chat(fields, turn_list, attached)


def _alpaca(fields: RecordFields) -> ChatExample:
    """Parse an Alpaca record; ``system`` and ``history`` as in LLaMA-Factory."""
    attached = AttachedMedia(fields)
    text = fields.text(fields.values["instruction"], "instruction")
    if fields.string(fields.values.get("input", ""), "input").strip():
        text = f"{text}\n\n{fields.values['input']}"
    question = Turn("user", attached.of_text(text))
    turn_list = [*_system(fields), *_history(fields), question, _answer(fields, "output")]
    return _chat(fields, turn_list, attached)


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
    turn_list = _alternating(fields, fields.items(value, "text", of="texts"), "text")
    return _chat(fields, turn_list, None)


def _alternating(fields: RecordFields, texts: Sequence[Any], name: str) -> list[Turn]:
    return [
        Turn(("user", "assistant")[index % 2], fields.text(text, f"{name}[{index}]"))
        for index, text in enumerate(texts)
    ]


def _question(fields: RecordFields, key: str, attached: AttachedMedia) -> Turn:
    return Turn("user", attached.of_text(fields.text(fields.values[key], key)))


def _answer(fields: RecordFields, key: str) -> Turn:
    return Turn("assistant", fields.text(fields.values[key], key))


def _system(fields: RecordFields) -> list[Turn]:
    return [Turn("system", fields.string(fields.values.get("system", ""), "system"))]


def _turns(fields: RecordFields, key: str, attached: AttachedMedia) -> list[Turn]:
    messages = fields.items(fields.values[key], key, of="messages")
    return [
        turns.read(fields, each, f"{key}[{index}]", attached) for index, each in enumerate(messages)
    ]


def _chat(
    fields: RecordFields, turn_list: Sequence[Turn], attached: AttachedMedia | None
) -> ChatExample:
    """Return the example up to its last answer, without empty system messages."""
    if attached is not None:
        attached.require_used()
    answers = [i for i, turn in enumerate(turn_list) if turn.role == "assistant" and not turn.tool]
    if not answers:
        raise fields.error("no turn is an answer of the assistant; expected at least one to train")
    kept = [t for t in turn_list[: answers[-1] + 1] if t.role != "system" or _is_filled(t)]
    merged = list(_with_results_joined(kept))
    plain: list[dict[str, Any]] = [{"role": t.role, "content": t.content} for t in merged]
    messages = with_tools(plain, turns.tools_of(fields))
    added = len(messages) - len(plain)
    calls = [i for i, turn in enumerate(merged) if turn.role == "assistant" and turn.tool]
    return ChatExample(tuple(messages), tuple(added + i for i in calls))


def _is_filled(turn: Turn) -> bool:
    return not isinstance(turn.content, str) or bool(turn.content.strip())


def _with_results_joined(turn_list: Sequence[Turn]) -> Iterator[Turn]:
    """Join consecutive tool results: chat templates expect user and assistant to alternate."""
    for is_result, group in groupby(turn_list, lambda turn: turn.role == "user" and turn.tool):
        if is_result:
            yield Turn("user", "\n".join(str(turn.content) for turn in group), tool=True)
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
