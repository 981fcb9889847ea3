"""Ollama's API: ``/api/tags``, ``/api/ps``, ``/api/show`` and ``/api/version``."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from fastapi import APIRouter, Response

from gritlm import __version__
from gritlm.serve.api.streaming import json_response
from gritlm.serve.dialects.ollama_events import timestamp
from gritlm.serve.http.paths import OLLAMA_PS, OLLAMA_SHOW, OLLAMA_TAGS, OLLAMA_VERSION
from gritlm.serve.schemas.ollama import (
    OllamaError,
    OllamaModelList,
    OllamaShowRequest,
    OllamaShowResponse,
    OllamaVersion,
)
from gritlm.serve.served_models import ServedModel
from gritlm.serve.service import Service
from gritlm.serve.strict_json import new_router

_TAG = ":latest"


def routes(service: Service) -> APIRouter:
    """Return the routes of Ollama's API that describe the model."""
    router = new_router(error=OllamaError, tags=["ollama"])

    @router.get(OLLAMA_TAGS, response_model=OllamaModelList, summary="List models (Ollama)")
    async def tags() -> Response:
        """List the model of this server under each of its names."""
        return json_response({"models": [_model(service, name) for name in service.chat_names]})

    @router.get(OLLAMA_PS, response_model=OllamaModelList, summary="List loaded models (Ollama)")
    async def ps() -> Response:
        """List the model of this server, which is always loaded."""
        return json_response({"models": [_model(service, name) for name in service.chat_names]})

    @router.post(OLLAMA_SHOW, response_model=OllamaShowResponse, summary="Show a model (Ollama)")
    async def show(body: OllamaShowRequest) -> Response:
        """Describe the model with this name."""
        served = service.served(plain_model_name(service, body.model))
        return json_response(_description(service, served))

    @router.get(OLLAMA_VERSION, response_model=OllamaVersion, summary="Get the version (Ollama)")
    async def version() -> Response:
        """Return the version of this server, not one of Ollama."""
        return json_response({"version": __version__})

    return router


def plain_model_name(service: Service, name: str) -> str:
    """Return a model name without the tag that Ollama's clients append."""
    return name if name in service.models else name.removesuffix(_TAG)


def _model(service: Service, name: str) -> dict[str, Any]:
    served = service.served(name)
    return {
        "name": name,
        "model": name,
        "modified_at": timestamp(service.created),
        "size": served.model.memory_bytes(),
        "digest": sha256(served.fingerprint.encode()).hexdigest(),
        "details": _details(served),
    }


def _details(served: ServedModel) -> dict[str, Any]:
    model = served.model
    family = model.model.config.model_type
    return {
        "parent_model": served.parent or "",
        "format": "safetensors",
        "family": family,
        "families": [family],
        "parameter_size": f"{model.num_parameters() / 1e6:.0f}M",
        "quantization_level": str(model.dtype).removeprefix("torch.").upper(),
    }


def _description(service: Service, served: ServedModel) -> dict[str, Any]:
    model = served.model
    details = _details(served)
    family = details["family"]
    abilities = {
        "completion": model.lm.has_head,
        "tools": model.lm.has_head,
        "embedding": model.mode != "generative",
        "vision": "image" in model.reads,
        "audio": "sound" in model.reads,
    }
    return {
        "modelfile": "",
        "parameters": "",
        "template": "",
        "modified_at": timestamp(service.created),
        "details": details,
        "model_info": {
            "general.architecture": family,
            "general.parameter_count": model.num_parameters(),
            f"{family}.context_length": served.prompts.limit,
            f"{family}.embedding_length": model.embedding_dimension,
        },
        "capabilities": [name for name, has in abilities.items() if has],
    }
