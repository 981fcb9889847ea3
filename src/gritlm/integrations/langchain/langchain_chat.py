"""A chat model in process, for LangChain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LangSmithParams
from langchain_core.language_models.chat_models import generate_from_stream
from langchain_core.messages import AIMessageChunk, BaseMessage, UsageMetadata
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from pydantic import ConfigDict

from gritlm.errors import InputError, UnknownArgumentError, did_you_mean
from gritlm.integrations.counted_chat import CountedChat
from gritlm.integrations.local_models import ModelLike, model_of
from gritlm.lm.chat import Message
from gritlm.lm.gritlm import GritLM
from gritlm.lm.sampling import SamplingParams

_ROLES = {"human": "user", "ai": "assistant", "system": "system"}
_SETTINGS = ("max_tokens", "temperature", "top_p", "top_k", "seed")


class ChatGritLM(BaseChatModel):
    """A chat model of LangChain that generates in this process.

    Tools and structured output need a grammar: use ``ChatOpenAI`` with the server for them.

    Attributes:
        model: a GritLM, or the name or folder of one; None for the default model.
        max_tokens: most tokens of an answer.
        temperature: 0 takes the likeliest token.
        top_p: probability of the nucleus that tokens are sampled from; 1 keeps all.
        top_k: number of likeliest tokens that are sampled from; 0 keeps all.
        seed: seed of the sampler; None takes a new one each time.
        stop: strings that end an answer and are not part of it.
        streaming: whether ``invoke`` reports each piece of an answer to callbacks.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    model: ModelLike = None
    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: list[str] | None = None
    streaming: bool = False

    @property
    def _llm_type(self) -> str:
        return "gritlm"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        settings = {name: getattr(self, name) for name in _SETTINGS}
        return {"model": _name_of(self.model), **settings}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        name = _name_of(kwargs.get("model", self.model))
        return params | LangSmithParams(ls_provider="gritlm", ls_model_name=name)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return generate_from_stream(self._stream(messages, stop, run_manager, **kwargs))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        model = model_of(kwargs.pop("model", self.model))
        chat = CountedChat(model, turns_of(messages), self._sampling(stop, kwargs))
        for piece in chat:
            chunk = ChatGenerationChunk(message=AIMessageChunk(content=piece))
            if run_manager:
                run_manager.on_llm_new_token(piece, chunk=chunk)
            yield chunk
        yield ChatGenerationChunk(message=_last_chunk(model, chat))

    def _sampling(self, stop: list[str] | None, call: dict[str, Any]) -> SamplingParams:
        """Return the settings of one answer.

        Args:
            stop: stop strings of the call; None for those of the model.
            call: keyword arguments of the call, which replace fields of the model.

        Raises:
            UnknownArgumentError: for a keyword that is no setting.
        """
        for name in call:
            if name not in _SETTINGS:
                raise UnknownArgumentError(
                    f"ChatGritLM got an unknown argument {name!r}{did_you_mean(name, _SETTINGS)}"
                )
        chosen = {name: call.get(name, getattr(self, name)) for name in _SETTINGS}
        length = chosen.pop("max_tokens")
        stops = self.stop if stop is None else stop
        return replace(SamplingParams(**chosen), max_new_tokens=length, stop=tuple(stops or ()))


def _name_of(model: ModelLike) -> str:
    return str(model.source) if isinstance(model, GritLM) else str(model or "default")


def _last_chunk(model: GritLM, chat: CountedChat) -> AIMessageChunk:
    """Return the chunk without text that ends a stream, with counts and reason."""
    return AIMessageChunk(
        content="",
        chunk_position="last",
        response_metadata={"finish_reason": chat.finish_reason, "model_name": _name_of(model)},
        usage_metadata=UsageMetadata(
            input_tokens=chat.prompt_tokens,
            output_tokens=chat.completion_tokens,
            total_tokens=chat.prompt_tokens + chat.completion_tokens,
        ),
    )


def turns_of(messages: Sequence[BaseMessage]) -> list[Message]:
    """Return LangChain's messages in the form of :meth:`GritLM.chat`.

    Raises:
        InputError: for a message of a tool, with calls of tools, or with more than text.
    """
    return [_turn(number, message) for number, message in enumerate(messages)]


def _turn(number: int, message: BaseMessage) -> Message:
    if message.type not in _ROLES or getattr(message, "tool_calls", None):
        raise InputError(
            f"message {number} is of type {message.type!r} or calls tools, which ChatGritLM does "
            "not have; use ChatOpenAI with gritlm serve for tools"
        )
    return {"role": _ROLES[message.type], "content": _text(number, message)}


def _text(number: int, message: BaseMessage) -> str:
    if isinstance(message.content, str):
        return message.content
    parts = [
        {"type": "text", "text": part} if isinstance(part, str) else part
        for part in message.content
    ]
    for part in parts:
        if part.get("type") != "text":
            raise InputError(
                f"message {number} has a part of type {part.get('type')!r}; the model takes text"
            )
    return "".join(str(part["text"]) for part in parts)
