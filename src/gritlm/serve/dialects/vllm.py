"""vLLM's ``/score`` and ``/v1/score``: scores of pairs of texts. Shapes: N texts, D dimensions."""

from __future__ import annotations

import numpy as np
from fastapi import APIRouter, Response

from gritlm.lm.gritlm import GritLM
from gritlm.serve.api.embeddings import Embedded, Vectors, create_embeddings
from gritlm.serve.api.streaming import json_response
from gritlm.serve.dialects.translation import translated
from gritlm.serve.errors import invalid
from gritlm.serve.http.paths import SCORE, V1_SCORE
from gritlm.serve.schemas.embeddings import EmbeddingsRequest, ScoreRequest, ScoreResponse
from gritlm.serve.service import Service
from gritlm.serve.strict_json import new_router


def routes(service: Service) -> APIRouter:
    """Return the routes of scores."""
    router = new_router(tags=["vllm"])

    @router.post(SCORE, response_model=ScoreResponse, summary="Score")
    async def score(body: ScoreRequest) -> Response:
        """Score pairs of texts by their cosine, the first text with the instruction of queries."""
        return await _score(service, SCORE, body)

    @router.post(V1_SCORE, response_model=ScoreResponse, summary="Score")
    async def v1_score(body: ScoreRequest) -> Response:
        """Score pairs of texts by their cosine, the first text with the instruction of queries."""
        return await _score(service, V1_SCORE, body)

    return router


async def _score(service: Service, endpoint: str, body: ScoreRequest) -> Response:
    first = [body.text_1] if isinstance(body.text_1, str) else body.text_1
    second = [body.text_2] if isinstance(body.text_2, str) else body.text_2
    if len(first) not in (1, len(second)):
        raise invalid(
            f"text_1 has {len(first)} texts and text_2 has {len(second)}; expected one text in "
            "text_1, or as many as in text_2",
            param="text_1",
        )

    async def embedded(texts: list[str], **more: str | None) -> Embedded:
        cut = body.truncate_prompt_tokens
        fields = {"model": body.model, "input": texts, "truncate_prompt_tokens": cut, **more}
        return await create_embeddings(service, endpoint, translated(EmbeddingsRequest, fields))

    one = await embedded(first, input_type="query", instruction=body.instruction)
    two = await embedded(second)
    model = service.served(one.model).model
    scores = await service.run_in_new_thread(_cosines, model, one.vectors_ND, two.vectors_ND)
    data = [{"index": n, "object": "score", "score": score} for n, score in enumerate(scores)]
    tokens = one.tokens + two.tokens
    head = service.response_head("score", one.model, "list")
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json_response({**head, "data": data, "usage": usage})


def _cosines(model: GritLM, first_ND: Vectors, second_ND: Vectors) -> list[float]:
    """Return the cosine of each pair of rows; a single first row is paired with all others."""
    paired_ND = np.broadcast_to(first_ND, second_ND.shape)
    return list(model.similarity_pairwise(paired_ND.copy(), second_ND).tolist())
