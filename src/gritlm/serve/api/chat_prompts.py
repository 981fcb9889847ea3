"""Prompts of conversations, in the chat template of the model; safe in several threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2.exceptions import TemplateError

from gritlm.errors import InputError, MissingExtraError
from gritlm.lm.chat_template import NO_VARIABLES, RESERVED, template_variables
from gritlm.lm.gritlm import GritLM
from gritlm.lm.media.files import MediaRules
from gritlm.lm.media.media_chat import chat_prompt
from gritlm.lm.tokens import Prompt, SegmentTokenizer, special_tokens
from gritlm.lm.tools.call_format import CallFormat
from gritlm.lm.tools.definitions import Tool
from gritlm.lm.tools.prompt import ToolMessage, call_format_of, tool_chat_ids
from gritlm.serve.api.tokenization import Ids
from gritlm.serve.errors import invalid
from gritlm.serve.schemas.base import ignore


class ChatPrompts:
    """Tokenizer of the conversations of one model.

    Args:
        model: the model that reads the conversations.
        tokens: the tokenizer of the model.
    """

    def __init__(self, model: GritLM, tokens: SegmentTokenizer) -> None:
        self._tokens = tokens
        self._settings = model.settings
        self._senses = model.lm.senses

    def template_variables(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the variables of a request that the chat template uses, and ignore the others.

        Args:
            given: ``chat_template_kwargs`` of the request.

        Raises:
            ApiError: for a variable that the server sets, or a special token in a value.
        """
        param = "chat_template_kwargs"
        if reserved := sorted(RESERVED & given.keys()):
            raise invalid(
                f"'{param}' has '{reserved[0]}', which the server sets; leave it out", param=param
            )
        by_template = self._settings.template == "tokenizer"
        known = template_variables(self._tokens.tokenizer) if by_template else frozenset()
        for name in given:
            if name not in known:
                ignore(f"{param}.{name}")
        used = {name: value for name, value in given.items() if name in known}
        text = str(used)
        for special in special_tokens(self._tokens.tokenizer):
            if special and special in text:
                raise invalid(
                    f"'{param}' has the special token '{special}'; expected plain text", param=param
                )
        return used

    def chat_ids(
        self,
        messages: Sequence[ToolMessage],
        tools: Sequence[Tool] = (),
        variables: Mapping[str, Any] = NO_VARIABLES,
    ) -> Ids:
        """Return the ids of a conversation, up to the start of the next message.

        Args:
            messages: the messages, oldest first.
            tools: the tools that the prompt lists.
            variables: further variables of the chat template.

        Raises:
            ApiError: if the chat template of the model refuses the conversation.
        """
        try:
            template = self._settings.template
            return tuple(
                tool_chat_ids(self._tokens, messages, tools, template=template, variables=variables)
            )
        except TemplateError as error:
            raise invalid(
                f"the model's chat template does not take this: {error}", param="messages"
            ) from None
        except InputError as error:
            raise invalid(f"'messages': {error}", param="messages") from None

    def media_prompt(
        self,
        messages: Sequence[ToolMessage],
        variables: Mapping[str, Any],
        rules: MediaRules,
    ) -> Prompt:
        """Return the prompt of a conversation with images and sounds.

        Args:
            messages: the messages, oldest first, without calls and their results.
            variables: further variables of the chat template.
            rules: limits on images and sounds, and how they are decoded.

        Raises:
            ApiError: for an image or a sound that is not read, or a conversation that the chat
                template refuses.
        """
        try:
            return chat_prompt(
                self._tokens,
                messages,
                senses=self._senses,
                template=self._settings.template,
                start=True,
                rules=rules,
                variables=variables,
            )
        except TemplateError as error:
            raise invalid(
                f"the model's chat template does not take this: {error}", param="messages"
            ) from None
        except (InputError, MissingExtraError) as error:
            raise invalid(f"'messages': {error}", param="messages") from None

    def call_format(self, messages: Sequence[ToolMessage], tools: Sequence[Tool]) -> CallFormat:
        """Return the format in which the answer to a conversation has its calls."""
        template = self._settings.template
        return call_format_of(self._tokens, messages, tools, template=template)
