"""Conversations as text, which lm-eval hands around, and as the ids that GritLM chats in."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from uuid import uuid4

from gritlm import prompts
from gritlm.errors import InputError
from gritlm.lm.chat import Message
from gritlm.lm.chat_template import render
from gritlm.lm.gritlm import GritLM
from gritlm.lm.tokens import SegmentTokenizer
from gritlm.prompts import Segment

log = logging.getLogger(__name__)


class ChatTexts:
    """Conversations -> texts; remembers the ids of those in our own format.

    Our format is tokenised in segments, which tokenising the text again would not always give.
    """

    def __init__(self, model: GritLM) -> None:
        self._tokenizer = model.tokenizer
        self._ours = model.settings.template == "gritlm"
        self._tokens = SegmentTokenizer(model.tokenizer)
        self._ids: dict[str, list[int]] = {}

    @property
    def template(self) -> str:
        """The template, for records."""
        return prompts.CHAT_TEMPLATE if self._ours else str(self._tokenizer.chat_template)

    def text(self, messages: Sequence[Message], *, answer: bool) -> str:
        """A conversation as text, ready for an answer, or for more of its last message."""
        if not self._ours:
            return self._by_template(messages, answer=answer)
        segments = self._segments(messages, answer=answer)
        end = self._tokenizer.eos_token or ""
        text = "".join(s.text + (end if s.end else "") for s in segments)
        self._ids[text] = self._tokens.for_chat(segments).ids
        return text

    def ids(self, text: str) -> list[int] | None:
        """Ids of a conversation in our format; None for any other text."""
        return self._ids.get(text)

    def continuation(self, text: str) -> list[int]:
        """Ids of what is written behind a conversation in our format."""
        return self._tokens.pieces([text], first=False)[0]

    @staticmethod
    def _segments(messages: Sequence[Message], *, answer: bool) -> list[Segment]:
        if answer:
            return prompts.for_chat(messages)
        *before, last = messages
        return [*prompts.for_chat(before), Segment(last["content"])]

    def _by_template(self, messages: Sequence[Message], *, answer: bool) -> str:
        rest = [message for message in messages if message["role"] != "system"]
        try:
            return self._rendered(messages, answer=answer)
        except InputError as error:
            if len(rest) == len(messages):
                raise
            log.warning("the chat template takes no system message (%s); left out", error)
            return self._rendered(rest, answer=answer)

    def _rendered(self, messages: Sequence[Message], *, answer: bool) -> str:
        if answer:
            return render(self._tokenizer, messages, answer=True)
        *before, last = messages
        mark = f"end{uuid4().hex} "
        marked = last | {"content": last["content"] + mark}
        text = render(self._tokenizer, [*before, marked], answer=False)
        start, found, rest = text.rpartition(mark.rstrip())
        if not found:
            raise InputError(
                "the chat template of this model leaves out the last message, which is to be "
                "continued; set template='gritlm' in gritlm.json"
            )
        # A template that trims its messages trims the spaces before the mark's place, too.
        return start if rest.startswith(" ") else start.rstrip()
