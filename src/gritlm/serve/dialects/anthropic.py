"""Anthropic's API: ``/v1/messages`` and ``/v1/messages/count_tokens``."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import APIRouter, Response

from gritlm.serve.api.chat_completions import CreateChat, read_prompt
from gritlm.serve.api.streaming import json_response
from gritlm.serve.api.tool_calls import tools_of
from gritlm.serve.dialects.message_events import MessageDialect
from gritlm.serve.dialects.translation import translated
from gritlm.serve.http.paths import COUNT_TOKENS, MESSAGES
from gritlm.serve.schemas.anthropic import (
    AnthropicError,
    AnthropicMessage,
    CountTokensRequest,
    CountTokensResponse,
    ImageBlockParam,
    MessagesRequest,
    MessagesResponse,
    MessageStreamEvent,
    Texts,
    ToolResultParam,
    ToolUseParam,
)
from gritlm.serve.schemas.chat_completions import ChatCompletionRequest
from gritlm.serve.service import Service
from gritlm.serve.strict_json import new_router, stream_of


def routes(service: Service, create: CreateChat) -> APIRouter:
    """Return the routes of Anthropic's API."""
    router = new_router(error=AnthropicError, tags=["anthropic"])

    @router.post(
        MESSAGES,
        response_model=MessagesResponse,
        responses=stream_of(MessageStreamEvent),
        summary="Create a message",
    )
    async def messages(body: MessagesRequest) -> Response:
        """Generate the next message of a conversation, as one response or as a stream."""
        fields = {
            **_conversation(body),
            "max_tokens": body.max_tokens,
            "stop": body.stop_sequences,
            "stream": body.stream,
            "stream_options": {"include_usage": True} if body.stream else None,
            "temperature": body.temperature,
            "top_p": body.top_p,
            "top_k": body.top_k,
            "rag": body.rag,
        }
        return await create(MESSAGES, translated(ChatCompletionRequest, fields), MessageDialect())

    @router.post(COUNT_TOKENS, response_model=CountTokensResponse, summary="Count tokens")
    async def count_tokens(body: CountTokensRequest) -> Response:
        """Count the tokens of a conversation, without generating anything."""
        service.generation_model_name(service.plain_name(body.model))
        request = translated(ChatCompletionRequest, _conversation(body))
        tools, _ = tools_of(request)
        with service.scheduler.reserve():
            prompt = await read_prompt(service, request, tools)
        return json_response({"input_tokens": len(prompt.ids)})

    return router


def _conversation(body: CountTokensRequest) -> dict[str, Any]:
    """Return model, messages and tools for OpenAI's API, the system message first."""
    system = _text(body.system)
    turns = [{"role": "system", "content": system}] if system else []
    for message in body.messages:
        turns += _turns(message)
    fields: dict[str, Any] = {"model": body.model, "messages": turns}
    if body.tools:
        fields["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": tool.input_schema,
                    "strict": tool.strict,
                },
            }
            for tool in body.tools
        ]
    return {**fields, **_choice(body)}


def _choice(body: CountTokensRequest) -> dict[str, Any]:
    """Return the choice of a tool in the words of OpenAI's API."""
    choice = body.tool_choice
    if choice is None:
        return {}
    words = {"auto": "auto", "none": "none", "any": "required"}
    named = {"type": "function", "function": {"name": choice.name}}
    fields: dict[str, Any] = {"tool_choice": words.get(choice.type, named)}
    if choice.disable_parallel_tool_use is not None:
        fields["parallel_tool_calls"] = not choice.disable_parallel_tool_use
    return fields


def _turns(message: AnthropicMessage) -> list[dict[str, Any]]:
    """Return a message as messages of OpenAI's API: each result of a tool is one of its own."""
    if isinstance(message.content, str):
        return [{"role": message.role, "content": message.content}]
    results: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    for block in message.content:
        if isinstance(block, ToolResultParam):
            content = _text(block.content)
            results.append({"role": "tool", "tool_call_id": block.tool_use_id, "content": content})
        elif isinstance(block, ToolUseParam):
            arguments = orjson.dumps(block.input).decode()
            function = {"name": block.name, "arguments": arguments}
            calls.append({"id": block.id, "type": "function", "function": function})
        elif isinstance(block, ImageBlockParam):
            parts.append(block.as_part())
        else:
            parts.append({"type": "text", "text": block.text})
    turn: dict[str, Any] = {"role": message.role, "content": parts or ""}
    if calls:
        turn["tool_calls"] = calls
    return [*results, turn] if parts or calls or not results else results


def _text(texts: Texts | None) -> str:
    if texts is None or isinstance(texts, str):
        return texts or ""
    return "\n".join(block.text for block in texts)
