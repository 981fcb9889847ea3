"""Conversations as users have them -> rows: one function a form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gritlm.train.fields import Fields
from gritlm.train.rows import ChatRow

KNOWN = (
    "{messages}, {prompt, completion}, {conversations}, {instruction, input, output}, "
    "{text: [user, assistant, ...]}"
)

_ROLES = {
    "system": "system", "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant",
}  # fmt: skip

_Turns = list[dict[str, str]]


def _messages(given: Fields) -> ChatRow:
    return _chat(given, _turns(given, "messages"))


def _prompt_completion(given: Fields) -> ChatRow:
    prompt, completion = given.values["prompt"], given.values["completion"]
    if isinstance(prompt, str) and isinstance(completion, str):
        said = [_said(given, "user", "prompt"), _said(given, "assistant", "completion")]
        return _chat(given, said)
    if isinstance(prompt, str) or isinstance(completion, str):
        raise given.error("prompt and completion are a text and a list; expected two of a kind")
    completed = _chat(given, _turns(given, "completion"))
    return _chat(given, [*_turns(given, "prompt"), *completed.messages])


def _sharegpt(given: Fields) -> ChatRow:
    return _chat(given, [*_system(given), *_turns(given, "conversations")])


def _alpaca(given: Fields) -> ChatRow:
    """``input`` stands behind the instruction; ``system`` and ``history`` as in LLaMA-Factory."""
    asked = _said(given, "user", "instruction")
    if given.string(given.values.get("input", ""), "input").strip():
        asked["content"] += f"\n\n{given.values['input']}"
    answered = _said(given, "assistant", "output")
    return _chat(given, [*_system(given), *_history(given), asked, answered])


def _history(given: Fields) -> _Turns:
    history, said = given.values.get("history", []), []
    if not isinstance(history, list | tuple):
        raise given.wrong(history, "history", "a list of [question, answer]")
    for index, pair in enumerate(history):
        what = f"history[{index}]"
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise given.wrong(pair, what, "[question, answer]")
        said += _alternating(given, pair, what)
    return said


def _gritlm(given: Fields) -> ChatRow:
    value = given.values["text"]
    if isinstance(value, str):
        raise given.error(
            "text is one text; expected a list [user, assistant, user, ...]: "
            "text without turns has no answer to train"
        )
    return _chat(given, _alternating(given, given.items(value, "text", of="texts"), "text"))


def _alternating(given: Fields, texts: Sequence[Any], what: str) -> _Turns:
    return [
        {"role": ("user", "assistant")[index % 2], "content": given.text(text, f"{what}[{index}]")}
        for index, text in enumerate(texts)
    ]


def _said(given: Fields, role: str, key: str) -> dict[str, str]:
    return {"role": role, "content": given.text(given.values[key], key)}


def _system(given: Fields) -> _Turns:
    content = given.string(given.values.get("system", ""), "system")
    return [{"role": "system", "content": content}]


def _turns(given: Fields, key: str) -> _Turns:
    turns = given.items(given.values[key], key, of="messages")
    return [_turn(given, turn, f"{key}[{index}]") for index, turn in enumerate(turns)]


def _turn(given: Fields, turn: Any, what: str) -> dict[str, str]:
    """``{"role", "content"}`` or ``{"from", "value"}``."""
    known = turn if isinstance(turn, Mapping) else {}
    said_by, said = ("from", "value") if "from" in known else ("role", "content")
    if said_by not in known or said not in known:
        raise given.wrong(turn, what, "{'role': 'user', 'content': 'text'}")
    role = known[said_by]
    if not isinstance(role, str) or role not in _ROLES:
        raise given.error(f"{what} has role {role!r}; expected {', '.join(_ROLES)}")
    check = given.string if _ROLES[role] == "system" else given.text
    return {"role": _ROLES[role], "content": check(known[said], what)}


def _chat(given: Fields, turns: Sequence[dict[str, str]]) -> ChatRow:
    answers = [index for index, turn in enumerate(turns) if turn["role"] == "assistant"]
    if not answers:
        raise given.error("no turn is the assistant's; expected at least one answer to train")
    said = turns[: answers[-1] + 1]
    return ChatRow(tuple(t for t in said if t["role"] != "system" or t["content"].strip()))


# Keys that tell a form, and the function that reads it; the first that fits is taken.
FORMS: Sequence[tuple[tuple[str, ...], Callable[[Fields], ChatRow]]] = (
    (("messages",), _messages),
    (("prompt", "completion"), _prompt_completion),
    (("conversations",), _sharegpt),
    (("instruction", "output"), _alpaca),
    (("text",), _gritlm),
)
