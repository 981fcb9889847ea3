"""``/v1/models``, ``/tokenize`` and ``/detokenize``: routes and responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Response

from gritlm.serve.api.media import require_texts
from gritlm.serve.api.streaming import json_response
from gritlm.serve.api.tool_calls import turns_of
from gritlm.serve.errors import invalid
from gritlm.serve.http.paths import DETOKENIZE, MODELS, TOKENIZE
from gritlm.serve.schemas.model_info import (
    MAX_CHARACTERS,
    DetokenizeRequest,
    DetokenizeResponse,
    ModelListResponse,
    ModelObject,
    TokenizeRequest,
    TokenizeResponse,
)
from gritlm.serve.served_models import ServedModel
from gritlm.serve.service import Service
from gritlm.serve.strict_json import new_router


def routes(service: Service) -> APIRouter:
    """Return the routes of models and tokenization."""
    router = new_router(tags=["model"])

    @router.get(MODELS, response_model=ModelListResponse, summary="List models")
    async def models() -> Response:
        """List the model of this server under each of its names, and those with other adapters
        over its base, which have it as ``parent``. Chats with a name that ends with ``:rag`` or
        ``:rag:<store>`` are answered from the documents of a store."""
        data = [_model_object(service, name) for name in service.chat_names]
        return json_response({"object": "list", "data": data})

    @router.get(MODELS + "/{name:path}", response_model=ModelObject, summary="Get a model")
    async def model(name: str) -> Response:
        """Return the model with this name."""
        parts = service.rag_store(name)
        if parts is None or not service.stores.answers(parts[1], service.served(name).model):
            name = service.model_name(name)
        return json_response(_model_object(service, name))

    @router.post(TOKENIZE, response_model=TokenizeResponse, summary="Tokenize")
    async def tokenize(body: TokenizeRequest) -> Response:
        """Convert a text or a conversation to token ids."""
        served = service.served(service.model_name(body.model))
        with service.scheduler.reserve():
            variables = served.chat_prompts.template_variables(body.chat_template_kwargs or {})
            return await service.run_in_worker_thread(_tokenize, served, body, variables)

    @router.post(DETOKENIZE, response_model=DetokenizeResponse, summary="Detokenize")
    async def detokenize(body: DetokenizeRequest) -> Response:
        """Convert token ids to text."""
        served = service.served(service.model_name(body.model))
        with service.scheduler.reserve():
            return await service.run_in_worker_thread(_detokenize, served, body)

    return router


def _model_object(service: Service, name: str) -> dict[str, Any]:
    served = service.served(name)
    model = served.model
    return {
        "id": name,
        "object": "model",
        "created": service.created,
        "owned_by": "gritlm",
        "parent": served.parent,
        "max_model_len": served.prompts.limit,
        "embedding_dimension": model.embedding_dimension,
        "query_instruction": model.settings.query_instruction,
        "embeds": model.mode != "generative",
        "writes": model.lm.has_head,
        "reads": model.reads,
        "documents": bool(service.stores.of(model)),
        "parameters": model.num_parameters(),
        "dtype": str(model.lm.dtype).removeprefix("torch."),
        "device": str(model.device),
        "memory_bytes": model.memory_bytes(),
    }


def _tokenize(served: ServedModel, body: TokenizeRequest, variables: Mapping[str, Any]) -> Response:
    ids = _ids(served, body, variables)
    names = [served.token_texts.of(token) for token in ids] if body.return_token_strs else None
    return json_response(
        {
            "count": len(ids),
            "max_model_len": served.prompts.limit,
            "tokens": ids,
            "token_strs": names,
        }
    )


def _detokenize(served: ServedModel, body: DetokenizeRequest) -> Response:
    ids = served.prompts.check_ids(body.tokens, "'tokens'", param="tokens")
    return json_response({"prompt": served.prompts.decode(ids)})


def _ids(served: ServedModel, body: TokenizeRequest, variables: Mapping[str, Any]) -> Sequence[int]:
    if (body.prompt is None) == (body.messages is None):
        raise invalid("give one of 'prompt' and 'messages'", param="prompt")
    if body.messages is not None:
        size = sum(message.characters for message in body.messages)
        if size > MAX_CHARACTERS:
            raise invalid(
                f"the messages have {size:,} characters; expected at most {MAX_CHARACTERS:,}",
                param="messages",
            )
        require_texts(body.messages, "tokenization")
        return served.chat_prompts.chat_ids(turns_of(body.messages), variables=variables)
    assert body.prompt is not None
    (ids,) = served.prompts.prompt_ids([body.prompt])
    return ids if body.add_special_tokens else ids[len(served.prompts.tokens.prefix) :]
