"""``POST /v1/chat/completions``: route, parameters, response."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from fastapi import APIRouter, Response

from gritlm.lm.tokens import Prompt
from gritlm.lm.tools.call_format import HERMES, CallFormat
from gritlm.lm.tools.definitions import Tool
from gritlm.serve.api.logprobs import TokenTexts
from gritlm.serve.api.media import require_plain, with_media
from gritlm.serve.api.streaming import Dialect, GeneratedText, TokenUsage
from gritlm.serve.api.structured_output import compile_grammar
from gritlm.serve.api.text_generation import (
    ChoicesBuilder,
    generate_requests,
    respond,
    sampling_params,
    wants_usage,
)
from gritlm.serve.api.tool_calls import ToolCalls, tools_of, turns_of
from gritlm.serve.engine.requests import OutputDelta, TokenLogprob
from gritlm.serve.errors import invalid
from gritlm.serve.http.paths import CHAT
from gritlm.serve.schemas.chat_completions import (
    ChatCompletionChunk,
    ChatCompletionRequest,
    ChatCompletionResponse,
)
from gritlm.serve.service import Service
from gritlm.serve.strict_json import new_router, stream_of


class CreateChat(Protocol):
    """The function behind all routes of chats."""

    async def __call__(
        self, endpoint: str, body: ChatCompletionRequest, dialect: Dialect | None = None
    ) -> Response:
        """Generate the next message of a conversation, as one response or as a stream.

        Args:
            endpoint: path of the route, for the metrics.
            body: the request.
            dialect: form of the response; None for that of OpenAI's API.

        Raises:
            ApiError: if the request is refused.
        """


def routes(create: CreateChat) -> APIRouter:
    """Return the route of chat completions."""
    router = new_router(tags=["model"])

    @router.post(
        CHAT,
        response_model=ChatCompletionResponse,
        responses=stream_of(ChatCompletionChunk),
        summary="Create a chat completion",
    )
    async def chat(body: ChatCompletionRequest) -> Response:
        """Generate the next message of a conversation, as one response or as a stream."""
        return await create(CHAT, body)

    return router


async def create_chat(
    service: Service, endpoint: str, body: ChatCompletionRequest, dialect: Dialect | None = None
) -> Response:
    """Generate the next message of a conversation; see :class:`CreateChat`."""
    name = service.generation_model_name(body.model)
    served = service.served(name)
    logprobs = _logprobs(body)
    usage = wants_usage(body.stream, body.stream_options)
    tools, calls = tools_of(body)
    choices = body.n or 1
    with service.scheduler.reserve(choices) as reservation:
        group = service.new_group(endpoint, choices=choices)
        prompt = await read_prompt(service, body, tools)
        call_format = HERMES if calls is None else await call_format_for(service, body, tools)
        grammar = await compile_grammar(service, served.model, body, calls, call_format)
        max_tokens = served.prompts.max_new_tokens(
            prompt.ids, max_tokens_of(body), param="messages"
        )
        sampling = sampling_params(
            body,
            max_tokens,
            vocabulary=served.prompts.vocabulary,
            top_k=body.top_k,
            logprobs=logprobs,
            grammar=grammar,
        )
        if calls is not None:
            sampling = replace(sampling, shown_special_ids=call_format.special_ids)
        requests = generate_requests([prompt], [sampling], choices, model=served.model)
        group.submit(reservation, requests)
    builder = ChatResponseBuilder(
        service.response_head("chatcmpl", name, ChatResponseBuilder.whole_object),
        served.token_texts,
        logprobs=logprobs is not None,
        usage=usage,
        call_format=None if calls is None else call_format,
    )
    return await respond(
        group,
        builder,
        sequences=choices,
        choices=choices,
        stream=body.stream,
        usage=usage,
        dialect=dialect,
    )


async def read_prompt(
    service: Service, body: ChatCompletionRequest, tools: Sequence[Tool]
) -> Prompt:
    """Return the prompt of a conversation, up to the start of the next message.

    Args:
        service: the service with the model.
        body: the request with the conversation.
        tools: tools that the prompt lists.

    Raises:
        ApiError: for a conversation that is too long, that the chat template refuses, or with an
            image or a sound that is not read.
    """
    served = service.served(body.model)
    messages = turns_of(body.messages)
    size = sum(message.characters for message in body.messages)
    size += sum(len(str(tool.as_openai())) for tool in tools)
    variables = served.chat_prompts.template_variables(body.chat_template_kwargs or {})
    size += len(str(variables)) if variables else 0
    served.prompts.require_characters([size], "the prompt", param="messages")
    if any(message.media for message in body.messages):
        require_plain(body.messages, tools)
        read = partial(served.chat_prompts.media_prompt, messages, variables)
        return await with_media(service, read, most_tokens=served.prompts.limit)
    ids = await service.run_in_worker_thread(
        served.chat_prompts.chat_ids, messages, tools, variables
    )
    return Prompt(list(ids))


async def call_format_for(
    service: Service, body: ChatCompletionRequest, tools: Sequence[Tool]
) -> CallFormat:
    """Return the format in which the answer to a conversation has its calls."""
    prompts = service.served(body.model).chat_prompts
    messages = [message.as_turn() for message in body.messages]
    return await service.run_in_worker_thread(prompts.call_format, messages, tools)


class ChatResponseBuilder(ChoicesBuilder):
    """Builder of ``chat.completion`` objects and their chunks.

    Args:
        call_format: format of the calls that the text may have; None for no calls.
        options: arguments of :class:`ChoicesBuilder`.
    """

    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def __init__(
        self,
        head: Mapping[str, Any],
        token_texts: TokenTexts,
        *,
        call_format: CallFormat | None = None,
        **options: bool,
    ) -> None:
        super().__init__(head, token_texts, **options)
        self._call_format = call_format
        self._tool_calls: dict[int, ToolCalls] = {}

    def whole(self, parts: list[GeneratedText], tally: TokenUsage) -> Mapping[str, Any]:
        """Return the response that is sent without a stream."""
        choices = [self._choice(index, part) for index, part in enumerate(parts)]
        return {
            **self._head,
            "object": self.whole_object,
            "choices": choices,
            "usage": tally.usage(),
        }

    def opening(self, index: int) -> Mapping[str, Any]:
        """Return the first event of a choice, which has its role."""
        return self._chunk(
            index, {"role": "assistant", "content": "" if self._call_format is None else None}
        )

    def piece(self, index: int, delta: OutputDelta) -> Mapping[str, Any] | None:
        """Return the event for new text of a choice; None while its text may begin a call."""
        reason: str | None = delta.finish_reason
        if self._call_format is not None:
            calls = self._calls(index, self._call_format)
            content = calls.delta(delta.text, last=reason is not None)
            if not content and not delta.logprobs and reason is None:
                return None
            reason = _finish_reason(reason, calls.count)
        else:
            content = {"content": delta.text} if delta.text or delta.logprobs else {}
        event = self._chunk(
            index,
            content,
            finish_reason=reason,
            logprobs=self._logprobs_of(index, delta.logprobs) if delta.logprobs else None,
        )
        if reason is not None:
            event["choices"][0]["stop_reason"] = delta.stop_reason
        return event

    def _choice(self, index: int, part: GeneratedText) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": part.text, "refusal": None}
        reason: str | None = part.finish_reason
        if self._call_format is not None:
            calls = self._calls(index, self._call_format)
            message |= calls.message(part.text)
            reason = _finish_reason(reason, calls.count)
        return {
            "index": index,
            "message": message,
            "logprobs": self._logprobs_of(index, part.logprobs),
            "finish_reason": reason,
            "stop_reason": part.stop_reason,
        }

    def _calls(self, index: int, call_format: CallFormat) -> ToolCalls:
        return self._tool_calls.setdefault(index, ToolCalls(call_format))

    def _chunk(
        self,
        index: int,
        delta: Mapping[str, Any],
        *,
        logprobs: Any = None,
        finish_reason: str | None = None,
    ) -> Mapping[str, Any]:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }
        return self.event([choice])

    def _logprobs_of(self, index: int, tokens: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        return {"content": self._sequence(index).as_chat(tokens), "refusal": None}


def _finish_reason(reason: str | None, calls: int) -> str | None:
    return "tool_calls" if reason == "stop" and calls else reason


def max_tokens_of(body: ChatCompletionRequest) -> int | None:
    old = body.max_tokens
    new = body.max_completion_tokens
    if old is not None and new is not None and old != new:
        raise invalid(
            f"max_tokens={old} and max_completion_tokens={new}: give one of the two",
            param="max_tokens",
        )
    return old if new is None else new


def _logprobs(body: ChatCompletionRequest) -> int | None:
    if body.top_logprobs is not None and not body.logprobs:
        raise invalid("'top_logprobs' needs logprobs=true", param="top_logprobs")
    return (body.top_logprobs or 0) if body.logprobs else None
