"""Embeddings and reranking: bodies -> works -> answers. Shapes: N texts, D dimensions."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Sequence
from math import exp
from typing import Any
from uuid import uuid4

import numpy as np
import orjson
import torch
from numpy.typing import NDArray
from starlette.responses import Response

from gritlm.lm.generator import prefix_cache
from gritlm.lm.gritlm import GritLM
from gritlm.lm.precision import truncated
from gritlm.lm.tokens import Prompt
from gritlm.rag.cooperative import Checkpoint, paced
from gritlm.rag.cooperative import read as read_pieces
from gritlm.rag.reuse.reuse_check import blocks_of
from gritlm.serve.api.streaming import json_response
from gritlm.serve.api.tokenization import Ids
from gritlm.serve.engine.requests import EmbedRequest, ModelJob
from gritlm.serve.errors import invalid, too_long
from gritlm.serve.http.paths import EMBEDDINGS, RERANK
from gritlm.serve.schemas.embeddings import EmbeddingsRequest, RerankRequest
from gritlm.serve.service import Service

Vectors = NDArray[np.float32]


async def embed(service: Service, body: EmbeddingsRequest) -> Response:
    """Texts -> vectors, in the order of the texts."""
    name = service.embedding_model_name(body.model)
    instruction = _instruction(service, body)
    _require_texts(service, body)
    size = service.model.embedding_dimension
    if body.dimensions is not None and body.dimensions > size:
        raise invalid(
            f"dimensions={body.dimensions}; this model's vectors have {size}", param="dimensions"
        )
    with service.scheduler.reserve() as place, service.calls(EMBEDDINGS) as calls:
        prompts = await service.off_loop(
            service.prompts.texts,
            body.input,
            instruction=instruction,
            cut=body.truncate_prompt_tokens,
        )
        calls.submit(place, [EmbedRequest(prompts)])
        vectors_ND: Any = await calls.result()
    read = _count(service, EMBEDDINGS, prompts)
    items = await service.multiplying(
        _spelled,
        vectors_ND,
        dimensions=body.dimensions,
        base64=body.encoding_format == "base64",
        normalised=service.model.settings.normalized,
    )
    rest = orjson.dumps(
        {"object": "list", "model": name, "usage": {"prompt_tokens": read, "total_tokens": read}}
    )
    content = b'{"data":[' + b",".join(items) + b"]," + rest[1:]
    return Response(content, media_type="application/json")


async def rerank(service: Service, body: RerankRequest) -> Response:
    """Documents in the order in which they fit a query, the best first."""
    name = (
        service.embedding_model_name(body.model)
        if body.method == "embed"
        else service.generation_model_name(body.model)
    )
    texts = [item if isinstance(item, str) else item.text for item in body.documents]
    if body.method == "embed":
        scores, read = await _cosines(service, body, texts)
    else:
        scores, read = await _likelihoods(service, body, texts)
    order = sorted(range(len(texts)), key=lambda index: -scores[index])[: body.top_n]
    results: list[dict[str, Any]] = []
    for index in order:
        results.append({"index": index, "relevance_score": scores[index]})
        if body.return_documents:
            results[-1]["document"] = {"text": texts[index]}
    usage = {"prompt_tokens": read, "total_tokens": read}
    return json_response(
        {"id": f"rerank-{uuid4().hex}", "model": name, "results": results, "usage": usage}
    )


async def _cosines(
    service: Service, body: RerankRequest, texts: Sequence[str]
) -> tuple[list[float], int]:
    instruction = body.instruction
    if instruction is None:
        instruction = service.model.settings.query_instruction
    with service.scheduler.reserve() as place, service.calls(RERANK) as calls:
        cut = body.truncate_prompt_tokens
        query = await service.off_loop(
            service.prompts.texts,
            [body.query],
            instruction=instruction,
            cut=cut,
            param="query",
            name="the query",
        )
        documents = await service.off_loop(service.prompts.texts, texts, cut=cut, param="documents")
        calls.submit(place, [EmbedRequest((*query, *documents))])
        vectors_ND: Any = await calls.result()
    cosines_1N = await service.multiplying(service.model.similarity, vectors_ND[:1], vectors_ND[1:])
    return cosines_1N[0].tolist(), _count(service, RERANK, (*query, *documents))


async def _likelihoods(
    service: Service, body: RerankRequest, texts: Sequence[str]
) -> tuple[list[float], int]:
    if body.instruction is not None:
        raise invalid("'instruction' is for method=embed only", param="instruction")
    with service.scheduler.reserve() as place, service.calls(RERANK) as calls:
        passages, tail = await service.off_loop(_questions, service, body, texts)
        words = [service.prompts.first_id(word) for word in ("Yes", "No")]

        def run(checkpoint: Callable[[], None]) -> list[float]:
            scores = []
            pause = paced(checkpoint)
            for passage in passages:
                scores.append(likelihood(service.model, passage, tail, words, pause))
                checkpoint()
            return scores

        read = sum(len(passage.ids) + len(tail) for passage in passages)
        calls.submit(place, [ModelJob(run, tokens=read)])
        found: Any = await calls.result()
    service.meter.prompt_tokens.labels(RERANK).inc(read)
    return found, read


def likelihood(
    model: GritLM, passage: Prompt, tail: Ids, words: Sequence[int], pause: Checkpoint | None = None
) -> float:
    """Probability of the first of two tokens against the other, behind a passage that was read as
    it is embedded, and a question about it.

    Args:
        pause: called between layers, for who shares the model's thread.
    """
    blocks = blocks_of(model.lm, [passage.ids], causal=False, pause=pause)
    logits_V = read_pieces(model.lm, prefix_cache(model.lm, blocks, room=len(tail)), tail, pause)
    yes, no = (float(logits_V[word]) for word in words)
    return 1 / (1 + exp(min(700.0, no - yes)))


def _questions(
    service: Service, body: RerankRequest, texts: Sequence[str]
) -> tuple[tuple[Prompt, ...], Ids]:
    """Passages, and what asks of each whether it answers the query."""
    tail = service.prompts.question_about(body.query)
    limit = service.prompts.limit
    if len(tail) >= limit:
        raise too_long(
            f"the query has {len(tail)} tokens; this model's maximum context length is {limit}",
            param="query",
        )
    cut = body.truncate_prompt_tokens
    passages = service.prompts.texts(
        texts, cut=limit - len(tail) if cut == -1 else cut, param="documents"
    )
    for index, passage in enumerate(passages):
        if len(passage.ids) + len(tail) > limit:
            raise too_long(
                f"document {index} has {len(passage.ids)} tokens and the query {len(tail)}; this "
                f"model's maximum context length is {limit}",
                param="documents",
            )
    return passages, tail


def _require_texts(service: Service, body: EmbeddingsRequest) -> None:
    """
    Raises:
        ApiError: for token ids, which nobody can tell from those of another tokenizer.
    """
    if not service.settings.allow_token_ids and not isinstance(body.input[0], str):
        raise invalid(
            "'input' holds token ids, and ids of another tokenizer would give vectors of other "
            "words; send text (LangChain's OpenAIEmbeddings: check_embedding_ctx_length=False). "
            "For ids of this model's own tokenizer, start the server with --allow-token-ids",
            param="input",
            code="unsupported_value",
        )


def _instruction(service: Service, body: EmbeddingsRequest) -> str:
    if body.instruction is not None:
        return body.instruction
    return service.model.settings.query_instruction if body.input_type == "query" else ""


def _count(service: Service, endpoint: str, prompts: Sequence[Prompt]) -> int:
    read = sum(len(prompt.ids) for prompt in prompts)
    service.meter.prompt_tokens.labels(endpoint).inc(read)
    return read


def _spelled(
    vectors_ND: Vectors, *, dimensions: int | None, base64: bool, normalised: bool
) -> list[bytes]:
    """Each vector as JSON; one at a time, so that other threads get their turns."""
    if dimensions is not None:
        vectors_ND = truncated(
            torch.from_numpy(vectors_ND), dimensions, normalised=normalised
        ).numpy()
    made = []
    for index, vector_D in enumerate(np.ascontiguousarray(vectors_ND, dtype="<f4")):
        spelled = b64encode(vector_D.tobytes()).decode() if base64 else vector_D
        item = {"object": "embedding", "index": index, "embedding": spelled}
        made.append(orjson.dumps(item, option=orjson.OPT_SERIALIZE_NUMPY))
    return made
