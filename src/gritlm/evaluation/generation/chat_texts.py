"""Conversations as text, which lm-eval hands around, and as the ids that GritLM chats in."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from jinja2.exceptions import TemplateError

from gritlm import prompts
from gritlm.lm.chat import Message
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
        try:
            return self._rendered(list(messages), answer=answer)
        except TemplateError as error:
            log.warning("the chat template takes no system message (%s); left out", error)
            rest = [message for message in messages if message["role"] != "system"]
            return self._rendered(rest, answer=answer)

    def _rendered(self, messages: list[Message], *, answer: bool) -> str:
        return str(
            self._tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=answer,
                continue_final_message=not answer,
            )
        )
