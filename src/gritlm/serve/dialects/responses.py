"""OpenAI's Responses API: ``POST /v1/responses``, without stored responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Response

from gritlm.serve.api.chat_completions import CreateChat
from gritlm.serve.dialects.response_events import ResponseDialect
from gritlm.serve.dialects.translation import translated
from gritlm.serve.http.paths import RESPONSES
from gritlm.serve.schemas.chat_completions import ChatCompletionRequest
from gritlm.serve.schemas.responses import (
    InputCall,
    InputCallOutput,
    InputMessage,
    Item,
    NamedFunction,
    ResponseObject,
    ResponsesRequest,
    ResponseStreamEvent,
)
from gritlm.serve.strict_json import new_router, stream_of


def routes(create: CreateChat) -> APIRouter:
    """Return the route of the Responses API."""
    router = new_router(tags=["model"])

    @router.post(
        RESPONSES,
        response_model=ResponseObject,
        responses=stream_of(ResponseStreamEvent),
        summary="Create a response",
    )
    async def respond(body: ResponsesRequest) -> Response:
        """Generate the next message of a conversation, as one response or as a stream."""
        request = translated(ChatCompletionRequest, _chat(body))
        return await create(RESPONSES, request, ResponseDialect(_settings(body)))

    return router


def _chat(body: ResponsesRequest) -> dict[str, Any]:
    """Return the fields of the same request for a chat."""
    turns: list[dict[str, Any]] = []
    if body.instructions:
        turns.append({"role": "developer", "content": body.instructions})
    if isinstance(body.input, str):
        turns.append({"role": "user", "content": body.input})
    else:
        turns += _turns(body.input)
    fields = {
        "model": body.model,
        "messages": turns,
        "max_tokens": body.max_output_tokens,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "stream": body.stream,
        "stream_options": {"include_usage": True} if body.stream else None,
        "response_format": _format(body),
        "rag": body.rag,
    }
    return {**fields, **_tools(body)}


def _turns(items: Sequence[Item]) -> list[dict[str, Any]]:
    """Return items as messages; calls are fields of the assistant's message before them."""
    turns: list[dict[str, Any]] = []
    for item in items:
        if isinstance(item, InputCall):
            if not turns or turns[-1]["role"] != "assistant":
                turns.append({"role": "assistant", "content": ""})
            function = {"name": item.name, "arguments": item.arguments}
            call = {"id": item.call_id, "type": "function", "function": function}
            turns[-1].setdefault("tool_calls", []).append(call)
        elif isinstance(item, InputCallOutput):
            turns.append({"role": "tool", "tool_call_id": item.call_id, "content": item.output})
        else:
            turns.append({"role": item.role, "content": _content(item)})
    return turns


def _content(item: InputMessage) -> str | list[dict[str, Any]]:
    if isinstance(item.content, str):
        return item.content
    return [part.as_part() for part in item.content]


def _format(body: ResponsesRequest) -> dict[str, Any] | None:
    """Return the format of the text as a chat names it: its schema is an object of its own."""
    wanted = None if body.text is None else body.text.format
    if wanted is None or wanted.get("type") != "json_schema":
        return wanted
    schema = {name: value for name, value in wanted.items() if name != "type"}
    return {"type": "json_schema", "json_schema": schema}


def _tools(body: ResponsesRequest) -> dict[str, Any]:
    """Return the tools and their choice as a chat names them: functions are nested."""
    choice: Any = body.tool_choice
    if isinstance(choice, NamedFunction):
        choice = {"type": "function", "function": {"name": choice.name}}
    tools = [
        {"type": "function", "function": tool.model_dump(exclude={"type"})}
        for tool in body.tools or ()
    ]
    return {
        "tools": tools or None,
        "tool_choice": choice,
        "parallel_tool_calls": body.parallel_tool_calls if tools else None,
    }


def _settings(body: ResponsesRequest) -> Mapping[str, Any]:
    """Return the fields of the request that a response repeats."""
    choice: Any = body.tool_choice or "auto"
    wanted = None if body.text is None else body.text.format
    return {
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": {},
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "temperature": body.temperature,
        "text": {"format": wanted or {"type": "text"}},
        "tool_choice": choice.model_dump() if isinstance(choice, NamedFunction) else choice,
        "tools": [tool.model_dump() for tool in body.tools or ()],
        "top_p": body.top_p,
    }
