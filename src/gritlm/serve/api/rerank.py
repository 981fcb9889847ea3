"""``POST /v1/rerank``: route, the choice of a method, response."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Response

from gritlm.serve.api.rerank_by_reading import score_by_reading
from gritlm.serve.api.streaming import json_response
from gritlm.serve.config import RerankMethod
from gritlm.serve.engine.requests import EmbedRequest
from gritlm.serve.http.paths import RERANK
from gritlm.serve.schemas.embeddings import RerankRequest, RerankResponse
from gritlm.serve.service import Service
from gritlm.serve.strict_json import new_router

_MOST_LOG_ODDS = 36.0  # beyond them the probability would round to 0 or 1


def routes(service: Service) -> APIRouter:
    """Return the route of reranking."""
    router = new_router(tags=["model"])

    @router.post(RERANK, response_model=RerankResponse, summary="Rerank documents")
    async def rerank(body: RerankRequest) -> Response:
        """Sort documents by their relevance to a query, the most relevant first."""
        return await respond_ranked(service, RERANK, body)

    return router


async def respond_ranked(service: Service, endpoint: str, body: RerankRequest) -> Response:
    """Return the response to a rerank request; see :func:`create_ranking`."""
    ranking = await create_ranking(service, endpoint, body)
    usage = {"prompt_tokens": ranking.tokens, "total_tokens": ranking.tokens}
    head = {"id": f"rerank-{uuid4().hex}", "model": ranking.model}
    results = ranking.as_results(documents=bool(body.return_documents))
    return json_response({**head, "results": results, "usage": usage})


@dataclass(frozen=True)
class Ranking:
    """The documents of a request, ranked.

    Attributes:
        model: name of the model in the response.
        texts: texts of all documents, in the order of the request.
        results: index and score of the best ``top_n`` documents, the most relevant first.
        tokens: number of tokens that were read.
    """

    model: str
    texts: Sequence[str]
    results: Sequence[tuple[int, float]]
    tokens: int

    def as_results(self, *, documents: bool) -> list[dict[str, Any]]:
        """Return the results as objects for JSON.

        Args:
            documents: whether they have the texts of the documents.
        """
        found: list[dict[str, Any]] = []
        for index, score in self.results:
            found.append({"index": index, "relevance_score": score})
            if documents:
                found[-1]["document"] = {"text": self.texts[index]}
        return found


async def create_ranking(
    service: Service, endpoint: str, body: RerankRequest, *, raw: bool = False
) -> Ranking:
    """Rank the documents of a request.

    Args:
        service: the service with the model.
        endpoint: path of the route, for the metrics.
        body: the request; ``return_documents`` is left to the caller.
        raw: whether log-odds are left as they are, instead of mapped to probabilities.

    Raises:
        ApiError: if the request is refused.
    """
    method = chosen_method(service, body)
    name = (
        service.embedding_model_name(body.model)
        if method == "embed"
        else service.generation_model_name(body.model)
    )
    texts = [item if isinstance(item, str) else item.text for item in body.documents]
    if method == "embed":
        scores, tokens = await _cosines(service, endpoint, body, texts)
    else:
        likelihood = method == "likelihood"
        scores, tokens = await score_by_reading(
            service, endpoint, body, texts, likelihood=likelihood
        )
    service.metrics.prompt_tokens.labels(endpoint).inc(tokens)
    order = sorted(range(len(texts)), key=lambda index: -scores[index])[: body.top_n]
    if method != "embed" and not raw:
        scores = [probability(score) for score in scores]
    return Ranking(name, texts, [(index, scores[index]) for index in order], tokens)


def chosen_method(service: Service, body: RerankRequest) -> RerankMethod:
    """Return the method of a request: its own, that of the server, or the best of the model.

    Likelihood and cosine together rank best where the model has a calibration of their sum.
    """
    if body.method is not None:
        return body.method
    if service.settings.rerank is not None:
        return service.settings.rerank
    model = service.served(body.model).model
    return "likelihood" if model.lm.has_head and model.settings.fusion is not None else "embed"


def probability(log_odds: float) -> float:
    """Return the probability of log-odds, above 0 and below 1."""
    return 1 / (1 + exp(-max(-_MOST_LOG_ODDS, min(_MOST_LOG_ODDS, log_odds))))


async def _cosines(
    service: Service, endpoint: str, body: RerankRequest, texts: Sequence[str]
) -> tuple[list[float], int]:
    """Return the cosine of the query and each document, and the tokens that were read."""
    served = service.served(body.model)
    with service.scheduler.reserve() as reservation, service.new_group(endpoint) as group:
        cut = body.truncate_prompt_tokens
        query = await service.run_in_worker_thread(
            served.prompts.query_prompt, body.query, body.instruction, cut=cut
        )
        documents = await service.run_in_worker_thread(
            served.prompts.embedding_prompts, texts, cut=cut, param="documents"
        )
        group.submit(reservation, [EmbedRequest((*query, *documents), served.model)])
        vectors_ND: Any = await group.result()
    cosines_1N = await service.run_in_new_thread(
        served.model.similarity, vectors_ND[:1], vectors_ND[1:]
    )
    return cosines_1N[0].tolist(), sum(len(prompt.ids) for prompt in (*query, *documents))
