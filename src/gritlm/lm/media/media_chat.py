"""Conversations with images and sound, in the format of the GritLM paper or of a chat template."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from gritlm import prompts
from gritlm.errors import InputError
from gritlm.lm.chat import ROLES, chat_ids, continued
from gritlm.lm.chat_template import render
from gritlm.lm.media.files import MediaRules
from gritlm.lm.media.inputs import InputText, Part, Parts, as_parts
from gritlm.lm.media.media_prompts import media_tokens, require_senses
from gritlm.lm.media.senses import Kind, MediaTokens, Senses
from gritlm.lm.tokens import Prompt, SegmentTokenizer

# Types of content parts in chat templates.
_TYPES: dict[Kind, str] = {"image": "image", "sound": "audio"}


@dataclass(frozen=True)
class _Turn:
    """A message: its role, and its parts with the tokens of images and sounds."""

    role: str
    parts: tuple[str | MediaTokens, ...]


@dataclass
class _Marks:
    """Marks in a rendered conversation, and the token ids that they stand for."""

    ids: dict[str, Sequence[int]] = field(default_factory=dict)

    def mark(self, ids: Sequence[int]) -> str:
        name = f"content{uuid4().hex}"
        self.ids[name] = ids
        return name

    def split(self, text: str, others: Sequence[str] = ()) -> list[str]:
        """Return the marks, other texts, and what is between them, in their order."""
        known = [*map(re.escape, (*self.ids, *others))]
        return re.split(f"({'|'.join(known)})", text) if known else [text]


def has_parts(messages: Any) -> bool:
    """Return whether a message of a conversation has a list of content parts."""
    return isinstance(messages, list | tuple) and any(
        isinstance(turn, Mapping) and isinstance(turn.get("content"), list | tuple)
        for turn in messages
    )


def chat_prompt(
    tokens: SegmentTokenizer,
    messages: Sequence[Mapping[str, Any]],
    *,
    senses: Senses | None,
    template: str,
    start: bool,
    rules: MediaRules,
) -> Prompt:
    """Return the prompt of a conversation with images and sound, ready for the model to answer.

    Args:
        tokens: the tokenizer.
        messages: messages whose content is a text, or a list of content parts.
        senses: towers of the model; None for a model that reads text only.
        template: ``gritlm`` or ``tokenizer``.
        start: False continues a cached prefix, with a newline instead of the BOS.
        rules: limits on images and sound.

    Raises:
        InputError: for an invalid conversation, or a part that the model does not read.
    """
    rows = [_parts_of(turn, f"message {index}", rules) for index, turn in enumerate(messages)]
    if all(isinstance(part, InputText) for _, parts in rows for part in parts):
        texts = [{"role": role, "content": _text(parts)} for role, parts in rows]
        return Prompt(chat_ids(tokens, texts, template=template, start=start))
    if rows[-1][0] == "assistant":
        raise InputError("the last message is the assistant's; expected a message of the user")
    turns = [
        _Turn(role, tuple(_read(part, senses, rules) for part in parts)) for role, parts in rows
    ]
    media = tuple(part for turn in turns for part in turn.parts if isinstance(part, MediaTokens))
    if template == "gritlm":
        ids = _by_segments(tokens, turns, start=start)
    else:
        names = {} if senses is None else senses.media_tokens
        ids = continued(tokens, _by_template(tokens, turns, names), start=start)
    return Prompt(ids, media=media)


def _parts_of(turn: Mapping[str, Any], name: str, rules: MediaRules) -> tuple[str, Parts]:
    if not isinstance(turn, Mapping) or turn.get("role") not in ROLES:
        raise InputError(
            f"{name} has role {turn.get('role')!r}; expected {', '.join(ROLES)}"
            if isinstance(turn, Mapping)
            else f"{name} is {type(turn).__name__}; expected {{'role': ..., 'content': ...}}"
        )
    return str(turn["role"]), as_parts(turn.get("content"), name, rules)


def _text(parts: Sequence[Part]) -> str:
    return "".join(part.text for part in parts if isinstance(part, InputText))


def _read(part: Part, senses: Senses | None, rules: MediaRules) -> str | MediaTokens:
    if isinstance(part, InputText):
        return part.text
    return media_tokens(part, require_senses(senses, part), rules)


def _by_segments(tokens: SegmentTokenizer, turns: Sequence[_Turn], *, start: bool) -> list[int]:
    """Return the ids of a conversation in the format of the GritLM paper."""
    marks = _Marks()
    messages = [{"role": turn.role, "content": _inline(turn, marks)} for turn in turns]
    ids = list(tokens.prefix) if start else []
    first = start
    for segment in prompts.for_chat(messages, start=start):
        for piece in filter(None, marks.split(segment.text)):
            ids += marks.ids.get(piece) or tokens.pieces([piece], first=first)[0]
            first = False
        if segment.end and tokens.tokenizer.eos_token_id is not None:
            ids.append(tokens.tokenizer.eos_token_id)
    return ids


def _inline(turn: _Turn, marks: _Marks) -> str:
    """Return the text of a turn with marks in the place of images and sounds."""
    return "".join(part if isinstance(part, str) else marks.mark(part.alone) for part in turn.parts)


def _by_template(
    tokens: SegmentTokenizer, turns: Sequence[_Turn], names: Mapping[Kind, str]
) -> list[int]:
    """Return the ids of a rendered chat template.

    Args:
        tokens: the tokenizer.
        turns: the conversation.
        names: texts by which the template names an image or a sound; empty for a template that
            knows texts only.
    """
    marks = _Marks()
    plain = not any(_is_special(part, tokens, names) for turn in turns for part in turn.parts)
    messages = []
    for turn in turns:
        literal = _Turn(turn.role, tuple(_literal(p, tokens, marks, plain) for p in turn.parts))
        content = _structured(literal) if names else _inline(literal, marks)
        messages.append({"role": turn.role, "content": content})
    rendered = render(tokens.tokenizer, messages, answer=True)
    media = [part for turn in turns for part in turn.parts if isinstance(part, MediaTokens)]
    queues = {kind: iter([each for each in media if each.kind == kind]) for kind in names}
    kinds = {name: kind for kind, name in names.items()}
    ids: list[int] = []
    for piece in marks.split(rendered, [*kinds]):
        if piece in marks.ids:
            ids += marks.ids[piece]
        elif piece in kinds:
            ids += _next_ids(queues[kinds[piece]], kinds[piece], media)
        elif piece:
            ids += tokens.markup(piece)
    _require_all(queues, media)
    return ids


def _is_special(
    part: str | MediaTokens, tokens: SegmentTokenizer, names: Mapping[Kind, str]
) -> bool:
    """Return whether a text would be taken for a special token."""
    return isinstance(part, str) and (
        tokens.has_special(part) or any(name in part for name in names.values())
    )


def _literal(
    part: str | MediaTokens, tokens: SegmentTokenizer, marks: _Marks, plain: bool
) -> str | MediaTokens:
    """Return a part, or a mark in the place of a text with special tokens in the conversation."""
    if plain or not isinstance(part, str):
        return part
    return marks.mark(tokens.pieces([part], first=False)[0])


def _structured(turn: _Turn) -> list[dict[str, str]]:
    return [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": _TYPES[part.kind]}
        for part in turn.parts
    ]


def _next_ids(
    queue: Iterator[MediaTokens], kind: Kind, media: Sequence[MediaTokens]
) -> Sequence[int]:
    found = next(queue, None)
    if found is None:
        raise _unlike(kind, media)
    return found.ids


def _require_all(
    queues: Mapping[Kind, Iterator[MediaTokens]], media: Sequence[MediaTokens]
) -> None:
    for kind, queue in queues.items():
        if next(queue, None) is not None:
            raise _unlike(kind, media)


def _unlike(kind: Kind, media: Sequence[MediaTokens]) -> InputError:
    count = sum(each.kind == kind for each in media)
    return InputError(
        f"the chat template of this model writes another number of {kind}s than the {count} of "
        "the conversation; restore the template, or pass a single one"
    )
