"""Conversations with images and sound, in the format of the GritLM paper or of a chat template."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from gritlm.errors import InputError
from gritlm.lm.chat import ROLES, chat_ids, continued
from gritlm.lm.chat_template import NO_VARIABLES
from gritlm.lm.media.files import MediaRules
from gritlm.lm.media.inputs import InputText, Part, Parts, as_parts
from gritlm.lm.media.media_turns import (
    MediaTurn,
    Piece,
    media_of,
    read_turn,
    segment_pieces,
    template_pieces,
)
from gritlm.lm.media.senses import Senses
from gritlm.lm.tokens import Prompt, SegmentTokenizer


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
    variables: Mapping[str, Any] = NO_VARIABLES,
) -> Prompt:
    """Return the prompt of a conversation with images and sound, ready for the model to answer.

    Args:
        tokens: the tokenizer.
        messages: messages whose content is a text, or a list of content parts.
        senses: towers of the model; None for a model that reads text only.
        template: ``gritlm`` or ``tokenizer``.
        start: False continues a cached prefix, with a newline instead of the BOS.
        rules: limits on images and sound.
        variables: further variables of the tokenizer's chat template.

    Raises:
        InputError: for an invalid conversation, or a part that the model does not read.
    """
    rows = [_parts_of(turn, f"message {index}", rules) for index, turn in enumerate(messages)]
    if all(isinstance(part, InputText) for _, parts in rows for part in parts):
        texts = [{"role": role, "content": _text(parts)} for role, parts in rows]
        return Prompt(chat_ids(tokens, texts, template=template, start=start, variables=variables))
    if rows[-1][0] == "assistant":
        raise InputError("the last message is the assistant's; expected a message of the user")
    turns = [read_turn(role, parts, senses, rules) for role, parts in rows]
    if template == "gritlm":
        pieces = [piece for piece, _ in segment_pieces(tokens, turns, start=start)]
        ids = [*(tokens.prefix if start else ()), *_joined(pieces)]
    else:
        names = {} if senses is None else senses.media_tokens
        pieces = [*template_pieces(tokens, turns, names, variables=variables)]
        ids = continued(tokens, _joined(pieces), start=start)
    return Prompt(ids, media=media_of(turns))


def conversation_prompt(
    tokens: SegmentTokenizer,
    messages: Sequence[Mapping[str, Any]],
    *,
    senses: Senses | None,
    template: str,
    context: Collection[int] = (),
    rules: MediaRules,
) -> Prompt:
    """Return a whole conversation with images and sound, with the spans of its answers.

    It is :func:`gritlm.lm.chat.conversation` for training, and its tokens before an answer are
    those of :func:`chat_prompt`.

    Args:
        tokens: the tokenizer.
        messages: ``{"role": ..., "content": ...}`` with a text or a tuple of parts; those of the
            assistant are texts.
        senses: towers of the model; None for a model that reads text only.
        template: ``gritlm`` or ``tokenizer``.
        context: indices of the assistant's messages that are not in the loss, such as tool calls.
        rules: limits on images and sound.

    Raises:
        InputError: for a part that the model does not read, or a conversation that the chat
            template refuses.
    """
    turns = [
        read_turn(str(each["role"]), _as_parts(each["content"]), senses, rules) for each in messages
    ]
    if template == "gritlm":
        return _trained_segments(tokens, turns, context)
    answers = [number for number, turn in enumerate(turns) if turn.role == "assistant"]
    names = {} if senses is None else senses.media_tokens
    ids: list[int] = []
    trained: list[tuple[int, int]] = []
    answered = False
    for piece in template_pieces(tokens, turns, names, answer=False, apart=answers):
        if answered and [*piece.ids[:1]] == [tokens.tokenizer.eos_token_id]:
            trained[-1] = (trained[-1][0], len(ids) + 1)
        answered = piece.message is not None and piece.message not in context
        if answered:
            trained.append((len(ids), len(ids) + len(piece.ids)))
        ids += piece.ids
    return Prompt(ids, trained=tuple(trained), media=media_of(turns))


def _trained_segments(
    tokens: SegmentTokenizer, turns: Sequence[MediaTurn], context: Collection[int]
) -> Prompt:
    ids = list(tokens.prefix)
    trained: list[tuple[int, int]] = []
    for piece, in_loss in segment_pieces(tokens, turns, answer=False, context=context):
        end = len(ids) + len(piece.ids)
        if in_loss and trained and trained[-1][1] == len(ids):
            trained[-1] = (trained[-1][0], end)
        elif in_loss:
            trained.append((len(ids), end))
        ids += piece.ids
    return Prompt(ids, trained=tuple(trained), media=media_of(turns))


def _as_parts(content: str | Parts) -> Parts:
    return (InputText(content),) if isinstance(content, str) else content


def _joined(pieces: Iterable[Piece]) -> list[int]:
    return [number for piece in pieces for number in piece.ids]


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
