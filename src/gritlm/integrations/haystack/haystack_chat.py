"""A chat generator in process, for pipelines of Haystack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from haystack import component, default_from_dict, default_to_dict
from haystack.dataclasses import (
    ChatMessage,
    ComponentInfo,
    StreamingCallbackT,
    StreamingChunk,
    TextContent,
    select_streaming_callback,
)
from haystack.utils import deserialize_callable, serialize_callable

from gritlm.errors import InputError, UnknownArgumentError, did_you_mean
from gritlm.integrations.counted_chat import CountedChat
from gritlm.integrations.haystack.saved_components import saved_model
from gritlm.integrations.local_models import ModelLike, model_of
from gritlm.lm.chat import Message
from gritlm.lm.sampling import SamplingParams

_SETTINGS = {each.name for each in fields(SamplingParams)} - {"logprobs"}


@component
class GritLMChatGenerator:
    """Answers a conversation.

    Args:
        model: a GritLM, or the name or folder of one, loaded at the first use; None for the
            default model.
        generation_kwargs: fields of ``SamplingParams``: ``max_new_tokens``, ``temperature``,
            ``top_p``, ``top_k``, ``seed``, ``stop``.
        streaming_callback: function that gets each piece of an answer.
    """

    def __init__(
        self,
        model: ModelLike = None,
        generation_kwargs: dict[str, Any] | None = None,
        streaming_callback: StreamingCallbackT | None = None,
    ) -> None:
        self.model = model
        self.generation_kwargs = generation_kwargs or {}
        self.streaming_callback = streaming_callback
        _sampling(self.generation_kwargs)

    def to_dict(self) -> dict[str, Any]:
        """Return the component for a saved pipeline."""
        callback = self.streaming_callback
        return default_to_dict(
            self,
            model=saved_model(self.model),
            generation_kwargs=self.generation_kwargs,
            streaming_callback=None if callback is None else serialize_callable(callback),
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> GritLMChatGenerator:
        """Return the component of a saved pipeline."""
        settings = data.get("init_parameters", {})
        if settings.get("streaming_callback"):
            settings["streaming_callback"] = deserialize_callable(settings["streaming_callback"])
        return default_from_dict(cls, data)

    def warm_up(self) -> None:
        """Load the model."""
        model_of(self.model).require_head()

    @component.output_types(replies=list[ChatMessage])
    def run(
        self,
        messages: list[ChatMessage],
        streaming_callback: StreamingCallbackT | None = None,
        generation_kwargs: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return the answer as the only one of ``replies``."""
        model = model_of(self.model)
        sampling = _sampling(self.generation_kwargs | (generation_kwargs or {}))
        callback = select_streaming_callback(
            self.streaming_callback, streaming_callback, requires_async=False
        )
        chat = CountedChat(model, _turns(messages), sampling)
        source = ComponentInfo.from_component(self)
        pieces: list[str] = []
        for piece in chat:
            if callback is not None:
                first = not pieces
                callback(StreamingChunk(piece, component_info=source, index=0, start=first))
            pieces.append(piece)
        if callback is not None:
            end = chat.finish_reason
            callback(StreamingChunk("", component_info=source, index=0, finish_reason=end))
        return {"replies": [ChatMessage.from_assistant("".join(pieces), meta=_meta(model, chat))]}


def _meta(model: Any, chat: CountedChat) -> dict[str, Any]:
    return {
        "model": str(model.source),
        "index": 0,
        "finish_reason": chat.finish_reason,
        "usage": {
            "prompt_tokens": chat.prompt_tokens,
            "completion_tokens": chat.completion_tokens,
            "total_tokens": chat.prompt_tokens + chat.completion_tokens,
        },
    }


def _sampling(settings: dict[str, Any]) -> SamplingParams:
    """Return the sampling settings of ``generation_kwargs``.

    Raises:
        UnknownArgumentError: for a name that is no setting.
    """
    for name in settings:
        if name not in _SETTINGS:
            raise UnknownArgumentError(
                f"generation_kwargs has the unknown name {name!r}{did_you_mean(name, _SETTINGS)}"
            )
    stop = settings.get("stop") or ()
    return replace(
        SamplingParams(), **(settings | {"stop": (stop,) if isinstance(stop, str) else tuple(stop)})
    )


def _turns(messages: Sequence[ChatMessage]) -> list[Message]:
    """Return Haystack's messages in the form of :meth:`GritLM.chat`.

    Raises:
        InputError: for a message with more than text, such as images or calls of tools.
    """
    turns = []
    for number, message in enumerate(messages):
        other = [part for part in message._content if not isinstance(part, TextContent)]
        if other:
            raise InputError(
                f"message {number} has a {type(other[0]).__name__}; the model takes text: use "
                "OpenAIChatGenerator with gritlm serve for tools"
            )
        turns.append({"role": message.role.value, "content": "".join(message.texts)})
    return turns
