"""``POST /v1/embeddings``: route, parameters, response. Shapes: N texts, D dimensions."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import orjson
import torch
from fastapi import APIRouter, Response
from numpy.typing import NDArray

from gritlm.lm.gritlm import GritLM
from gritlm.lm.tokens import Prompt
from gritlm.lm.vectors import truncated
from gritlm.serve.api.media import require_texts, with_media
from gritlm.serve.engine.requests import EmbedRequest
from gritlm.serve.errors import invalid
from gritlm.serve.http.paths import EMBEDDINGS
from gritlm.serve.schemas.content_parts import PartsInput, input_of_parts
from gritlm.serve.schemas.embeddings import EmbeddingInputs, EmbeddingsRequest, EmbeddingsResponse
from gritlm.serve.served_models import ServedModel
from gritlm.serve.service import Service
from gritlm.serve.strict_json import new_router

Vectors = NDArray[np.float32]
_QUERY = {"query", "search_query", "retrieval.query", "code.query", "nl2code.query"}


def routes(service: Service) -> APIRouter:
    """Return the route of embeddings."""
    router = new_router(tags=["model"])

    @router.post(EMBEDDINGS, response_model=EmbeddingsResponse, summary="Create embeddings")
    async def embed(body: EmbeddingsRequest) -> Response:
        """Embed texts: one vector for each text, in the order of the texts."""
        embedded = await create_embeddings(service, EMBEDDINGS, body)
        objects = await service.run_in_worker_thread(
            _embedding_objects, embedded.vectors_ND, base64=body.encoding_format == "base64"
        )
        return _response(objects, embedded.model, embedded.tokens)

    return router


@dataclass(frozen=True)
class Embedded:
    """The vectors of a request.

    Attributes:
        model: name of the model in the response.
        vectors_ND: the vectors (N, D), in the order of the texts.
        tokens: number of tokens that were read.
    """

    model: str
    vectors_ND: Vectors
    tokens: int


async def create_embeddings(service: Service, endpoint: str, body: EmbeddingsRequest) -> Embedded:
    """Embed the texts of a request.

    Args:
        service: the service with the model.
        endpoint: path of the route, for the metrics.
        body: the request; ``encoding_format`` is left to the caller.

    Raises:
        ApiError: if the request is refused.
    """
    name = service.embedding_model_name(body.model)
    served = service.served(name)
    items, instruction = _input(served.model, body)
    _require_texts(service, items)
    _require_dimensions(served.model, body)
    with service.scheduler.reserve() as reservation, service.new_group(endpoint) as group:
        prompts = await _prompts(service, served, items, instruction, _cut(body))
        group.submit(reservation, [EmbedRequest(prompts, served.model)])
        vectors_ND: Any = await group.result()
    tokens = sum(len(prompt.ids) for prompt in prompts)
    service.metrics.prompt_tokens.labels(endpoint).inc(tokens)
    if body.dimensions is not None:
        normalised = served.model.settings.normalized
        vectors_ND = await service.run_in_new_thread(
            _truncated, vectors_ND, body.dimensions, normalised=normalised
        )
    return Embedded(name, vectors_ND, tokens)


async def _prompts(
    service: Service, served: ServedModel, items: EmbeddingInputs, instruction: str, cut: int | None
) -> tuple[Prompt, ...]:
    """Return the prompts of all inputs, those with images or sounds at their places.

    Raises:
        ApiError: for an input that is too long, or an image or a sound that is not read.
    """
    texts: Any = [item for item in items if not isinstance(item, PartsInput)]
    found = await service.run_in_worker_thread(
        served.prompts.embedding_prompts, texts, instruction=instruction, cut=cut
    )
    if len(texts) == len(items):
        return found
    media = {n: item for n, item in enumerate(items) if isinstance(item, PartsInput)}
    read = partial(served.prompts.media_prompts, media, instruction)
    made = await with_media(service, read, most_tokens=service.scheduler.max_request_tokens)
    rest = iter(found)
    return tuple(made[n] if n in made else next(rest) for n in range(len(items)))


def _input(model: GritLM, body: EmbeddingsRequest) -> tuple[EmbeddingInputs, str]:
    """Return the inputs of a request, and its instruction.

    Raises:
        ApiError: for a request with neither input nor messages, or messages of another form.
    """
    if (body.input is None) == (body.messages is None):
        both = body.input is not None
        raise invalid(
            "'input' and 'messages' are both given; give one" if both else "'input' is missing",
            param="input",
            code="invalid_value" if both else "missing_required_parameter",
        )
    if body.input is not None:
        return body.input, _instruction(model, body)
    messages = body.messages or []
    *before, last = messages
    if last.role != "user" or [each.role for each in before] not in ([], ["system"]):
        raise invalid(
            f"'messages' has the roles {', '.join(each.role for each in messages)[:80]}; an input "
            "to embed is one message of the user, perhaps after one of the system, which is its "
            "instruction",
            param="messages",
        )
    item = input_of_parts(last.content)
    if not item:
        raise invalid("the message of the user is empty; expected some text", param="messages")
    require_texts(before, "an instruction")
    if before and body.instruction is None:
        return [item], before[0].text
    return [item], _instruction(model, body)


def _instruction(model: GritLM, body: EmbeddingsRequest) -> str:
    if body.instruction is not None:
        return body.instruction
    words = {body.input_type, body.task}
    return model.settings.query_instruction if words & _QUERY else ""


def _cut(body: EmbeddingsRequest) -> int | None:
    """Return the number of tokens to cut texts to: -1 for as many as fit, None to refuse more."""
    if body.truncate_prompt_tokens is not None:
        return body.truncate_prompt_tokens
    return -1 if body.truncate in (True, "END") or body.truncation else None


def _require_texts(service: Service, items: EmbeddingInputs) -> None:
    """Refuse token ids, unless the server was started to take them.

    Raises:
        ApiError: for token ids, which may come from the tokenizer of another model.
    """
    if not service.settings.allow_token_ids and isinstance(items[0], list):
        raise invalid(
            "'input' holds token ids, and ids of another tokenizer would give vectors of other "
            "words; send text (LangChain's OpenAIEmbeddings: check_embedding_ctx_length=False). "
            "For ids of this model's own tokenizer, start the server with --allow-token-ids",
            param="input",
            code="unsupported_value",
        )


def _require_dimensions(model: GritLM, body: EmbeddingsRequest) -> None:
    size = model.embedding_dimension
    if body.dimensions is not None and body.dimensions > size:
        raise invalid(
            f"dimensions={body.dimensions}; this model's vectors have {size}", param="dimensions"
        )


def _truncated(vectors_ND: Vectors, dimensions: int, *, normalised: bool) -> Vectors:
    """Return the first dimensions of each vector, normalised again."""
    kept_ND = truncated(torch.from_numpy(vectors_ND), dimensions, normalised=normalised)
    return kept_ND.numpy()


def _embedding_objects(vectors_ND: Vectors, *, base64: bool) -> list[bytes]:
    """Return each vector as a JSON object, serialised one by one so that other threads can run."""
    objects = []
    for index, vector_D in enumerate(np.ascontiguousarray(vectors_ND, dtype="<f4")):
        embedding = b64encode(vector_D.tobytes()).decode() if base64 else vector_D
        item = {"object": "embedding", "index": index, "embedding": embedding}
        objects.append(orjson.dumps(item, option=orjson.OPT_SERIALIZE_NUMPY))
    return objects


def _response(objects: list[bytes], model: str, tokens: int) -> Response:
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    rest = orjson.dumps({"object": "list", "model": model, "usage": usage})
    content = b'{"data":[' + b",".join(objects) + b"]," + rest[1:]
    return Response(content, media_type="application/json")
