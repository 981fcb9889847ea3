"""Ollama's API: ``/api/chat``, ``/api/generate``, ``/api/embed`` and ``/api/embeddings``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter_ns
from typing import Any, Literal

import orjson
from fastapi import APIRouter, Response

from gritlm.serve.api.chat_completions import CreateChat
from gritlm.serve.api.embeddings import create_embeddings
from gritlm.serve.api.streaming import json_response
from gritlm.serve.dialects.ollama_events import OllamaDialect, loaded
from gritlm.serve.dialects.ollama_models import plain_model_name
from gritlm.serve.dialects.translation import translated, vector_response
from gritlm.serve.http.paths import (
    OLLAMA_CHAT,
    OLLAMA_EMBED,
    OLLAMA_EMBEDDINGS,
    OLLAMA_GENERATE,
)
from gritlm.serve.schemas.chat_completions import ChatCompletionRequest
from gritlm.serve.schemas.embeddings import EmbeddingsRequest
from gritlm.serve.schemas.ollama import (
    OllamaChatRequest,
    OllamaChatResponse,
    OllamaEmbeddingsRequest,
    OllamaEmbeddingsResponse,
    OllamaEmbedRequest,
    OllamaEmbedResponse,
    OllamaError,
    OllamaGenerateRequest,
    OllamaGenerateResponse,
    OllamaMessage,
    OllamaRequest,
)
from gritlm.serve.service import Service
from gritlm.serve.strict_json import new_router

_LINES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The response; unless stream=false, lines of JSON with parts of it.",
        "content": {"application/x-ndjson": {"schema": {"description": "Lines of JSON."}}},
    }
}


def routes(service: Service, create: CreateChat) -> APIRouter:
    """Return the routes of Ollama's API that generate text."""
    router = new_router(error=OllamaError, tags=["ollama"])

    @router.post(
        OLLAMA_CHAT, response_model=OllamaChatResponse, responses=_LINES, summary="Chat (Ollama)"
    )
    async def chat(body: OllamaChatRequest) -> Response:
        """Generate the next message of a conversation, as lines of JSON or as one response."""
        tools = [tool.model_dump(exclude_none=True) for tool in body.tools or ()]
        fields = {"messages": _turns(body.messages), "tools": tools or None}
        return await _generate(service, create, body, "chat", fields)

    @router.post(
        OLLAMA_GENERATE,
        response_model=OllamaGenerateResponse,
        responses=_LINES,
        summary="Generate (Ollama)",
    )
    async def generate(body: OllamaGenerateRequest) -> Response:
        """Answer a prompt as a message of the user, as lines of JSON or as one response."""
        content = _content(body.prompt, body.images)
        turns = [{"role": "user", "content": content}] if content else []
        if turns and body.system:
            turns.insert(0, {"role": "system", "content": body.system})
        return await _generate(service, create, body, "generate", {"messages": turns})

    return router


def embedding_routes(service: Service) -> APIRouter:
    """Return the routes of Ollama's API that embed."""
    router = new_router(error=OllamaError, tags=["ollama"])

    @router.post(OLLAMA_EMBED, response_model=OllamaEmbedResponse, summary="Embed (Ollama)")
    async def embed(body: OllamaEmbedRequest) -> Response:
        """Embed texts: one vector for each text, in the order of the texts."""
        started = perf_counter_ns()
        fields = {
            "model": plain_model_name(service, body.model),
            "input": body.input,
            "truncate": body.truncate is not False,
            "dimensions": body.dimensions,
        }
        request = translated(EmbeddingsRequest, fields)
        embedded = await create_embeddings(service, OLLAMA_EMBED, request)
        content = {
            "model": embedded.model,
            "embeddings": embedded.vectors_ND,
            "total_duration": perf_counter_ns() - started,
            "load_duration": 0,
            "prompt_eval_count": embedded.tokens,
        }
        return await vector_response(service, content)

    @router.post(
        OLLAMA_EMBEDDINGS,
        response_model=OllamaEmbeddingsResponse,
        summary="Embed one text (Ollama)",
    )
    async def embeddings(body: OllamaEmbeddingsRequest) -> Response:
        """Embed one text, as in older versions of the API."""
        name = plain_model_name(service, body.model)
        fields = {"model": name, "input": body.prompt, "truncate": True}
        request = translated(EmbeddingsRequest, fields)
        embedded = await create_embeddings(service, OLLAMA_EMBEDDINGS, request)
        return await vector_response(service, {"embedding": embedded.vectors_ND[0]})

    return router


async def _generate(
    service: Service,
    create: CreateChat,
    body: OllamaRequest,
    kind: Literal["chat", "generate"],
    fields: Mapping[str, Any],
) -> Response:
    name = plain_model_name(service, body.model)
    if not fields["messages"]:
        service.generation_model_name(service.plain_name(name))
        return json_response(loaded(kind, name))
    stream = body.stream is not False
    chat = {
        "model": name,
        "stream": stream,
        "stream_options": {"include_usage": True} if stream else None,
        "response_format": _format(body),
        "rag": body.rag,
        **_sampling(body),
        **fields,
    }
    endpoint = OLLAMA_CHAT if kind == "chat" else OLLAMA_GENERATE
    return await create(endpoint, translated(ChatCompletionRequest, chat), OllamaDialect(kind))


def _sampling(body: OllamaRequest) -> dict[str, Any]:
    """Return the sampling settings in the words of OpenAI's API and of vLLM."""
    options = {} if body.options is None else body.options.model_dump(exclude_none=True)
    most = options.pop("num_predict", 0)
    if "repeat_penalty" in options:
        options["repetition_penalty"] = options.pop("repeat_penalty")
    return {**options, "max_tokens": most if most > 0 else None}


def _format(body: OllamaRequest) -> dict[str, Any] | None:
    if not body.format:
        return None
    if body.format == "json":
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {"schema": body.format}}


def _content(text: str, images: Sequence[str] | None) -> str | list[dict[str, Any]]:
    """Return a text, or content parts with images before it."""
    if not images:
        return text
    urls = [f"data:image/png;base64,{data}" for data in images]  # the bytes name their format
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [*parts, {"type": "text", "text": text}] if text else parts


def _turns(messages: Sequence[OllamaMessage]) -> list[dict[str, Any]]:
    """Return messages for OpenAI's API, with an id for each call: Ollama's calls have none.

    A result belongs to the first call without a result, of the tool that it names if it names one.
    """
    turns: list[dict[str, Any]] = []
    open_calls: list[tuple[str, str]] = []  # id and name of calls without a result
    for number, message in enumerate(messages):
        content = _content(message.content, message.images)
        turn: dict[str, Any] = {"role": message.role, "content": content}
        if message.role == "tool":
            named = [call for call in open_calls if message.tool_name in (None, call[1])]
            call = named[0] if named else (f"call_{number}", "")
            open_calls = [each for each in open_calls if each != call]
            turn["tool_call_id"] = call[0]
        elif message.tool_calls:
            calls = [call.function for call in message.tool_calls]
            ids = [f"call_{number}_{index}" for index in range(len(calls))]
            open_calls += zip(ids, (call.name for call in calls), strict=True)
            turn["tool_calls"] = [
                {
                    "id": identity,
                    "type": "function",
                    "function": {
                        "name": call.name,
                        "arguments": orjson.dumps(call.arguments).decode(),
                    },
                }
                for identity, call in zip(ids, calls, strict=True)
            ]
        turns.append(turn)
    return turns
