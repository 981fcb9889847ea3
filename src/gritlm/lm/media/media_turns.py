"""Turns of a conversation with images and sound, and the token ids of their layout.

A layout is a sequence of pieces: token ids, and the index of the message that they are the text of.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from gritlm import prompts
from gritlm.errors import InputError
from gritlm.lm.chat_template import NO_VARIABLES, render
from gritlm.lm.media.files import MediaRules
from gritlm.lm.media.inputs import InputText, Part
from gritlm.lm.media.media_prompts import media_tokens, require_senses
from gritlm.lm.media.senses import Kind, MediaTokens, Senses
from gritlm.lm.tokens import SegmentTokenizer

# Types of content parts in chat templates.
_TYPES: dict[Kind, str] = {"image": "image", "sound": "audio"}


@dataclass(frozen=True)
class MediaTurn:
    """A message: its role, and its parts with the tokens of images and sounds."""

    role: str
    parts: tuple[str | MediaTokens, ...]


@dataclass(frozen=True)
class Piece:
    """Consecutive token ids of a conversation.

    Attributes:
        ids: the token ids.
        message: index of the message whose whole text they are; None for others.
    """

    ids: Sequence[int]
    message: int | None = None


@dataclass
class _Marks:
    """Marks in a rendered conversation, and the pieces that they stand for."""

    pieces: dict[str, Piece] = field(default_factory=dict)

    def mark(self, ids: Sequence[int], message: int | None = None) -> str:
        name = f"content{uuid4().hex}"
        self.pieces[name] = Piece(ids, message)
        return name

    def split(self, text: str, others: Sequence[str] = ()) -> list[str]:
        """Return the marks, other texts, and the text between them, in their order."""
        known = [*map(re.escape, (*self.pieces, *others))]
        return re.split(f"({'|'.join(known)})", text) if known else [text]


def read_turn(
    role: str, parts: Sequence[Part], senses: Senses | None, rules: MediaRules
) -> MediaTurn:
    """Return a message with the tokens of its images and sounds.

    Args:
        role: role of the message.
        parts: its parts.
        senses: towers of the model; None for a model that reads text only.
        rules: limits on images and sound.

    Raises:
        InputError: for a part that the model does not read.
    """
    return MediaTurn(
        role,
        tuple(
            part.text
            if isinstance(part, InputText)
            else media_tokens(part, require_senses(senses, part), rules)
            for part in parts
        ),
    )


def media_of(turns: Sequence[MediaTurn]) -> tuple[MediaTokens, ...]:
    """Return the images and sounds of a conversation, in their order."""
    return tuple(part for turn in turns for part in turn.parts if isinstance(part, MediaTokens))


def segment_pieces(
    tokens: SegmentTokenizer,
    turns: Sequence[MediaTurn],
    *,
    start: bool = True,
    answer: bool = True,
    context: Collection[int] = (),
) -> Iterator[tuple[Piece, bool]]:
    """Yield the pieces of a conversation in the format of the GritLM paper, after the BOS.

    Each has a flag: whether it is in the generative loss.

    Args:
        tokens: the tokenizer.
        turns: the conversation.
        start: False continues a cached prefix.
        answer: whether to end with the assistant marker.
        context: indices of the assistant's messages that are not in the loss.
    """
    marks = _Marks()
    messages = [{"role": turn.role, "content": _inline(turn, marks)} for turn in turns]
    first = start
    for segment in prompts.for_chat(messages, start=start, answer=answer, context=context):
        for text in filter(None, marks.split(segment.text)):
            found = marks.pieces.get(text)
            yield found or Piece(tokens.pieces([text], first=first)[0]), segment.trained
            first = False
        if segment.end and tokens.tokenizer.eos_token_id is not None:
            yield Piece([tokens.tokenizer.eos_token_id]), segment.trained


def _inline(turn: MediaTurn, marks: _Marks) -> str:
    """Return the text of a turn with marks in the place of images and sounds."""
    return "".join(part if isinstance(part, str) else marks.mark(part.alone) for part in turn.parts)


def template_pieces(
    tokens: SegmentTokenizer,
    turns: Sequence[MediaTurn],
    names: Mapping[Kind, str],
    *,
    answer: bool = True,
    apart: Collection[int] = (),
    variables: Mapping[str, Any] = NO_VARIABLES,
) -> Iterator[Piece]:
    """Yield the pieces of a rendered chat template.

    Args:
        tokens: the tokenizer.
        turns: the conversation.
        names: texts by which the template names an image or a sound; empty for a template that
            knows texts only.
        answer: whether to end with the beginning of an assistant's turn.
        apart: indices of messages of a single text that are pieces of their own.
        variables: further variables of the template.

    Raises:
        InputError: the template refuses the conversation, or writes another number of images.
    """
    marks = _Marks()
    plain = not any(_is_special(part, tokens, names) for turn in turns for part in turn.parts)
    messages = []
    for number, turn in enumerate(turns):
        if number in apart:
            ids = tokens.pieces(["".join(map(str, turn.parts))], first=False)[0]
            literal = MediaTurn(turn.role, (marks.mark(ids, number),))
        else:
            parts = (_literal(part, tokens, marks, plain) for part in turn.parts)
            literal = MediaTurn(turn.role, tuple(parts))
        content = _structured(literal) if names else _inline(literal, marks)
        messages.append({"role": turn.role, "content": content})
    rendered = render(tokens.tokenizer, messages, answer=answer, variables=variables)
    media = media_of(turns)
    queues = {kind: iter([each for each in media if each.kind == kind]) for kind in names}
    kinds = {name: kind for kind, name in names.items()}
    for text in marks.split(rendered, [*kinds]):
        if text in marks.pieces:
            yield marks.pieces[text]
        elif text in kinds:
            yield Piece(_next_ids(queues[kinds[text]], kinds[text], media))
        elif text:
            yield Piece(tokens.markup(text))
    _require_all(queues, media)


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


def _structured(turn: MediaTurn) -> list[dict[str, str]]:
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
