"""``POST /v1/rerank``: route, the methods of scoring, response."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Response

from gritlm.lm.generator import prefill_in_pieces, prefix_cache
from gritlm.lm.gritlm import GritLM
from gritlm.lm.kv.row_batch import RowBatch
from gritlm.lm.tokens import Prompt
from gritlm.rag.cooperative import Checkpoint, paced
from gritlm.rag.fusion import read_question
from gritlm.rag.plan import rows_together
from gritlm.rag.reuse.reuse_check import blocks_of
from gritlm.serve.api.streaming import json_response
from gritlm.serve.api.tokenization import Ids, PromptTokenizer
from gritlm.serve.engine.requests import EmbedRequest, ModelJob
from gritlm.serve.errors import invalid, too_long
from gritlm.serve.http.paths import RERANK
from gritlm.serve.schemas.embeddings import RerankRequest, RerankResponse
from gritlm.serve.served_models import ServedModel
from gritlm.serve.service import Service
from gritlm.serve.strict_json import new_router


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


async def create_ranking(service: Service, endpoint: str, body: RerankRequest) -> Ranking:
    """Rank the documents of a request.

    Args:
        service: the service with the model.
        endpoint: path of the route, for the metrics.
        body: the request; ``return_documents`` is left to the caller.

    Raises:
        ApiError: if the request is refused.
    """
    by_vectors = body.method == "embed"
    name = (
        service.embedding_model_name(body.model)
        if by_vectors
        else service.generation_model_name(body.model)
    )
    texts = [item if isinstance(item, str) else item.text for item in body.documents]
    score = _cosines if by_vectors else _by_reading
    scores, tokens = await score(service, endpoint, body, texts)
    service.metrics.prompt_tokens.labels(endpoint).inc(tokens)
    order = sorted(range(len(texts)), key=lambda index: -scores[index])[: body.top_n]
    return Ranking(name, texts, [(index, scores[index]) for index in order], tokens)


async def _cosines(
    service: Service, endpoint: str, body: RerankRequest, texts: Sequence[str]
) -> tuple[list[float], int]:
    """Return the cosine of the query and each document, and the tokens that were read."""
    served = service.served(body.model)
    instruction = body.instruction
    if instruction is None:
        instruction = served.model.settings.query_instruction
    with service.scheduler.reserve() as reservation, service.new_group(endpoint) as group:
        cut = body.truncate_prompt_tokens
        query = await service.run_in_worker_thread(
            served.prompts.embedding_prompts,
            [body.query],
            instruction=instruction,
            cut=cut,
            param="query",
            name="the query",
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


async def _by_reading(
    service: Service, endpoint: str, body: RerankRequest, texts: Sequence[str]
) -> tuple[list[float], int]:
    """Return the score of each document after which the query is read, and the tokens read."""
    if body.instruction is not None:
        raise invalid("'instruction' is for method=embed only", param="instruction")
    served = service.served(body.model)
    with service.scheduler.reserve() as reservation, service.new_group(endpoint) as group:
        passages, question = await service.run_in_worker_thread(
            _prompts, served.prompts, body, texts
        )
        scorer = (
            _yes_scores(served, question.ids)
            if question.span is None
            else _likelihood_scores(served.model, question.ids, question.span)
        )

        def run(checkpoint: Callable[[], None]) -> list[float]:
            scores: list[float] = []
            pause = paced(checkpoint)
            while len(scores) < len(passages):
                scores += scorer(passages[len(scores) :], pause)
                checkpoint()
            return scores

        tokens = sum(len(passage.ids) + len(question.ids) for passage in passages)
        group.submit(reservation, [ModelJob(run, tokens=tokens)])
        scores: Any = await group.result()
    return scores, tokens


# Scores of the first documents, at least of one.
Scorer = Callable[[Sequence[Prompt], Checkpoint | None], list[float]]


def _yes_scores(served: ServedModel, question: Ids) -> Scorer:
    """Return the scorer of method ``generate``."""
    words = [served.prompts.first_id(word) for word in ("Yes", "No")]
    return lambda passages, pause: [likelihood(served.model, passages[0], question, words, pause)]


def _likelihood_scores(model: GritLM, question: Ids, span: tuple[int, int]) -> Scorer:
    """Return the scorer of method ``likelihood``, which reads documents in batches of rows."""
    lm = model.lm
    causal = not model.shares_embedding_pass

    def scores(passages: Sequence[Prompt], pause: Checkpoint | None) -> list[float]:
        together = rows_together([len(each.ids) + len(question) for each in passages])
        blocks = []
        for passage in passages[:together]:
            blocks += blocks_of(lm, [passage.ids], causal=causal, pause=pause)
        return read_question(RowBatch(lm, blocks, room=len(question)), question, span)

    return scores


def likelihood(
    model: GritLM,
    passage: Prompt,
    question: Ids,
    words: Sequence[int],
    pause: Checkpoint | None = None,
) -> float:
    """Return the probability of the first of two tokens against the second, 0 to 1.

    The passage is read with bidirectional attention, as for its embedding, unless another adapter
    embeds. The question about it follows in causal attention.

    Args:
        model: a model that generates.
        passage: the passage as an embedding prompt.
        question: token ids of the question.
        words: token ids of the two answers, such as those of "Yes" and "No".
        pause: checkpoint callback, called between layers; None if no other work waits.
    """
    causal = not model.shares_embedding_pass
    blocks = blocks_of(model.lm, [passage.ids], causal=causal, pause=pause)
    cache = prefix_cache(model.lm, blocks, room=len(question))
    logits_V = prefill_in_pieces(model.lm, cache, question, pause)
    yes, no = (float(logits_V[word]) for word in words)
    return 1 / (1 + exp(min(700.0, no - yes)))


@dataclass(frozen=True)
class _Question:
    """Tokens after a document.

    Attributes:
        ids: token ids.
        span: begin and end of the query in ``ids``, of which the likelihood is taken; None if the
            tokens ask for yes or no.
    """

    ids: Ids
    span: tuple[int, int] | None = None


def _prompts(
    prompts: PromptTokenizer, body: RerankRequest, texts: Sequence[str]
) -> tuple[tuple[Prompt, ...], _Question]:
    """Return the passages, and the tokens that follow each of them.

    Raises:
        ApiError: if the query, or the query behind one of the documents, is too long.
    """
    if body.method == "generate":
        asked = _Question(prompts.question_ids(body.query))
    else:
        asked = _Question(*prompts.question_after(body.query))
    question = asked.ids
    limit = prompts.limit
    if len(question) >= limit:
        raise too_long(
            f"the query has {len(question)} tokens; this model's maximum context length is {limit}",
            param="query",
        )
    cut = body.truncate_prompt_tokens
    passages = prompts.embedding_prompts(
        texts, cut=limit - len(question) if cut == -1 else cut, param="documents"
    )
    for index, passage in enumerate(passages):
        if len(passage.ids) + len(question) > limit:
            raise too_long(
                f"document {index} has {len(passage.ids)} tokens and the query {len(question)}; "
                f"this model's maximum context length is {limit}",
                param="documents",
            )
    return passages, asked
