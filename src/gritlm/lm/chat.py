"""Token ids of conversations, in the format of the GritLM paper or of a chat template."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from gritlm import prompts
from gritlm.errors import InputError
from gritlm.lm.chat_template import NO_VARIABLES, render
from gritlm.lm.tokens import Prompt, SegmentTokenizer, require_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]

ROLES = ("system", "user", "assistant")


def chat_ids(
    tokens: SegmentTokenizer,
    messages: Sequence[Message] | str,
    *,
    template: str,
    start: bool = True,
    variables: Mapping[str, Any] = NO_VARIABLES,
) -> list[int]:
    """Return the token ids of a conversation, ready for the model to answer.

    Args:
        tokens: the tokenizer.
        messages: text of a user, or ``{"role": "system" | "user" | "assistant", "content": str}``.
        template: ``gritlm`` or ``tokenizer``.
        start: False continues a cached prefix, with a newline instead of the BOS.
        variables: further variables of the tokenizer's chat template.

    Raises:
        InputError: for an invalid conversation, or one that ends with an answer.
    """
    turns = _validated(messages)
    if turns[-1]["role"] == "assistant":
        raise InputError(
            "the last message is the assistant's; expected a message of the user to answer"
        )
    if template == "gritlm":
        return tokens.for_chat(prompts.for_chat(turns, start=start), start=start).ids
    return continued(tokens, _by_template(tokens, turns, variables), start=start)


def conversation(
    tokens: SegmentTokenizer,
    messages: Sequence[Message],
    *,
    template: str,
    context: Collection[int] = (),
) -> Prompt:
    """Return a whole conversation with the spans of its answers, for training.

    Each span includes the end token of the answer. With a chat template, that is the token which
    the template writes after the answer, if it is the end-of-sequence token.

    Args:
        tokens: the tokenizer.
        messages: ``{"role": "system" | "user" | "assistant", "content": str}``.
        template: ``gritlm`` or ``tokenizer``.
        context: indices of the assistant's messages that are not in the loss, such as tool calls.

    Raises:
        InputError: for an invalid conversation.
    """
    turns = _validated(messages)
    if template == "gritlm":
        return tokens.for_chat(prompts.for_chat(turns, answer=False, context=context))
    ids: list[int] = []
    trained: list[tuple[int, int]] = []
    answered = False
    for turn, piece in _marked_pieces(tokens, turns, NO_VARIABLES, answer=False):
        if answered and piece[:1] == [tokens.tokenizer.eos_token_id]:
            trained[-1] = (trained[-1][0], len(ids) + 1)
        answered = turn is not None and turns[turn]["role"] == "assistant" and turn not in context
        if answered:
            trained.append((len(ids), len(ids) + len(piece)))
        ids += piece
    return Prompt(ids, trained=tuple(trained))


def template_for(tokenizer: PreTrainedTokenizerBase, template: str) -> str:
    """Return the chat format of a tokenizer: ``gritlm`` or ``tokenizer``.

    ``auto`` selects ``gritlm`` if the tokenizer has no chat template, or if its template is the
    format of the paper, as in the published models: segments are then exact.

    Args:
        tokenizer: the tokenizer with its chat template.
        template: ``auto``, or a format that is returned as it is.
    """
    if template != "auto":
        return template
    if tokenizer.chat_template is None:
        return "gritlm"
    turns = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
    ]
    eos = tokenizer.eos_token or ""
    ours = "".join(s.text + (eos if s.end else "") for s in prompts.for_chat(turns))
    try:
        own = render(tokenizer, turns, answer=True)
    except InputError:
        return "tokenizer"
    return "gritlm" if own.removeprefix(tokenizer.bos_token or "") == ours else "tokenizer"


def _validated(messages: Sequence[Message] | str) -> list[Message]:
    if not isinstance(messages, str | list | tuple):
        raise InputError(f"messages is {messages!r}; expected a text or a list of messages")
    turns = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
    if not turns:
        raise InputError("messages is empty; expected a text or at least one message")
    for index, turn in enumerate(turns):
        if not isinstance(turn, dict) or not isinstance(turn.get("content"), str):
            raise InputError(
                f"message {index} is {turn!r}; expected "
                "{'role': 'user', 'content': 'text'} with a text"
            )
        if turn.get("role") not in ROLES:
            raise InputError(
                f"message {index} has role {turn.get('role')!r}; expected {', '.join(ROLES)}"
            )
    for index, turn in enumerate(turns):
        require_text(turn["content"], f"message {index}")
    if not any(turn["content"] for turn in turns):
        raise InputError("all messages are empty; expected some text")
    return turns


def _by_template(
    tokens: SegmentTokenizer, turns: Sequence[Message], variables: Mapping[str, Any]
) -> list[int]:
    """Return the ids of a rendered template; special tokens inside of messages are plain text."""
    if not any(tokens.has_special(turn["content"]) for turn in turns):
        return tokens.markup(_rendered(tokens, turns, variables, answer=True))
    pieces = _marked_pieces(tokens, turns, variables, answer=True)
    return [i for _, piece in pieces for i in piece]


def _marked_pieces(
    tokens: SegmentTokenizer,
    turns: Sequence[Message],
    variables: Mapping[str, Any],
    *,
    answer: bool,
) -> Iterator[tuple[int | None, list[int]]]:
    """Yield the ids of markup (with None) and messages (with their index) in their order."""
    marks = [f"content{uuid4().hex}" for _ in turns]
    marked = [turn | {"content": mark} for turn, mark in zip(turns, marks, strict=True)]
    rendered = _rendered(tokens, marked, variables, answer=answer)
    for part in re.split(f"({'|'.join(marks)})", rendered):
        if part in marks:  # a template may drop or repeat a message
            number = marks.index(part)
            yield number, tokens.pieces([turns[number]["content"]], first=False)[0]
        else:
            yield None, tokens.markup(part)


def _rendered(
    tokens: SegmentTokenizer,
    turns: Sequence[Message],
    variables: Mapping[str, Any],
    *,
    answer: bool,
) -> str:
    tokenizer = tokens.tokenizer
    if tokenizer.chat_template is None:
        raise InputError(
            "this tokenizer has no chat template; set template='gritlm' in gritlm.json, or give "
            "tokenizer.chat_template one"
        )
    return render(tokenizer, turns, answer=answer, variables=variables)


def continued(tokens: SegmentTokenizer, ids: list[int], *, start: bool) -> list[int]:
    """Return the ids of a conversation; after a prefix, replace the BOS by a newline.

    Args:
        tokens: the tokenizer.
        ids: the ids, with the BOS if the template writes one.
        start: whether the conversation begins the sequence.
    """
    if start:
        return ids
    bos = tokens.tokenizer.bos_token_id
    if tokens.prefix and ids[:1] == [bos]:
        ids = ids[1:]
    return tokens.pieces(["\n"], first=False)[0] + ids
