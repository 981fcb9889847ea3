"""Scores of documents behind which the model reads the query: its likelihood, or yes against no.

Both are log-odds, so that 0 is neutral, and do not depend on the other documents of a request.

``generate``: the logit of "Yes" less that of "No" as the first token of the answer to the question
whether the document answers the query.

``likelihood``: the gain in the mean log-probability of the query's tokens by the document, plus the
cosine less 0.5, as the model's calibration weighs it. The order is that of
:func:`gritlm.rag.rerank.likelihood_scores`; the gain makes the scores of different queries
comparable, since a rare query is unlikely behind every document.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from gritlm.lm.generator import prefill_in_pieces, prefix_cache
from gritlm.lm.gritlm import GritLM
from gritlm.lm.kv.block import KVBlock
from gritlm.lm.kv.row_batch import RowBatch
from gritlm.lm.tokens import Prompt
from gritlm.rag.cooperative import Checkpoint, paced
from gritlm.rag.fusion import SpannedIds, read_question
from gritlm.rag.plan import rows_together
from gritlm.rag.rerank import likelihood_scores, scoring_of
from gritlm.rag.reuse.reuse_check import blocks_of
from gritlm.serve.api.tokenization import Ids, PromptTokenizer
from gritlm.serve.engine.requests import ModelJob
from gritlm.serve.errors import invalid, too_long
from gritlm.serve.schemas.embeddings import RerankRequest
from gritlm.serve.served_models import ServedModel
from gritlm.serve.service import Service

_NEUTRAL_COSINE = 0.5
# Scores of the first documents, at least of one.
_Scorer = Callable[[Sequence[Prompt], Checkpoint | None], list[float]]


async def score_by_reading(
    service: Service, endpoint: str, body: RerankRequest, texts: Sequence[str], *, likelihood: bool
) -> tuple[list[float], int]:
    """Return the log-odds of each document, and the number of tokens that were read.

    Args:
        service: the service with the model.
        endpoint: path of the route, for the metrics.
        body: the request.
        texts: texts of the documents.
        likelihood: whether the method is ``likelihood``, else ``generate``.

    Raises:
        ApiError: if the request is refused.
    """
    served = service.served(body.model)
    weighs_cosine = likelihood and scoring_of(served.model).cosine > 0
    if weighs_cosine:
        service.embedding_model_name(body.model)  # refuses models that do not embed
    elif body.instruction is not None:
        raise invalid(
            "'instruction' is for the vector of the query, which this method does not use with "
            "this model; use method=embed, or leave it out",
            param="instruction",
        )
    with service.scheduler.reserve() as reservation, service.new_group(endpoint) as group:
        prompts = await service.run_in_worker_thread(
            _likelihood_prompts if likelihood else _yes_prompts, served, body, texts
        )
        scorer = _Likelihoods(served.model, prompts) if likelihood else _yes_scores(served, prompts)

        def run(checkpoint: Callable[[], None]) -> list[float]:
            scores: list[float] = []
            pause = paced(checkpoint)
            while len(scores) < len(texts):
                scores += scorer(prompts.passages[len(scores) :], pause)
                checkpoint()
            return scores

        group.submit(reservation, [ModelJob(run, tokens=prompts.tokens)])
        scores: Any = await group.result()
    return scores, prompts.tokens


@dataclass(frozen=True)
class _Prompts:
    """Token ids of a request.

    Attributes:
        passages: the documents, as they are embedded.
        question: token ids behind each document.
        span: begin and end of the query in ``question``.
        query: the query, as it is embedded; None without a cosine in the score.
    """

    passages: tuple[Prompt, ...]
    question: Ids
    span: tuple[int, int] = (0, 0)
    query: Prompt | None = None

    @property
    def tokens(self) -> int:
        """Number of tokens that are read."""
        own = 0 if self.query is None else len(self.query.ids)
        return own + sum(len(passage.ids) + len(self.question) for passage in self.passages)


def _yes_prompts(served: ServedModel, body: RerankRequest, texts: Sequence[str]) -> _Prompts:
    question = served.prompts.question_ids(body.query)
    return _Prompts(_passages(served.prompts, body, texts, question), question)


def _likelihood_prompts(served: ServedModel, body: RerankRequest, texts: Sequence[str]) -> _Prompts:
    question, span = served.prompts.question_after(body.query)
    passages = _passages(served.prompts, body, texts, question)
    if not scoring_of(served.model).cosine:
        return _Prompts(passages, question, span)
    (query,) = served.prompts.query_prompt(
        body.query, body.instruction, cut=body.truncate_prompt_tokens
    )
    return _Prompts(passages, question, span, query)


def _passages(
    prompts: PromptTokenizer, body: RerankRequest, texts: Sequence[str], question: Ids
) -> tuple[Prompt, ...]:
    """Return the passages, behind each of which the question fits.

    Raises:
        ApiError: if the query, or the query behind one of the documents, is too long.
    """
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
    return passages


class _Likelihoods:
    """Scorer of method ``likelihood``, which reads documents in batches of rows.

    One pass over a document gives its vector and its KV block, unless another adapter embeds.

    Args:
        model: the model.
        prompts: token ids of the request.
    """

    def __init__(self, model: GritLM, prompts: _Prompts) -> None:
        self._model = model
        self._query = prompts.query
        self._question = SpannedIds(prompts.question, prompts.span)

    def __call__(self, passages: Sequence[Prompt], pause: Checkpoint | None) -> list[float]:
        size = len(self._question.ids)
        together = rows_together([len(each.ids) + size for each in passages])
        cosines: list[float] = []
        blocks: list[KVBlock] = []
        for passage in passages[:together]:
            cosine, block = self._read(passage, pause)
            cosines.append(cosine)
            blocks.append(block)
        scores = likelihood_scores(self._model, blocks, cosines, self._question)
        return [score - self._neutral for score in scores]

    def _read(self, passage: Prompt, pause: Checkpoint | None) -> tuple[float, KVBlock]:
        """Return the cosine of query and passage, 0 if it is not needed, and the KV block."""
        if self._query is None:
            return 0.0, _block_of(self._model, passage, pause)
        vector_1D, (block,) = self._model.encoder.vectors_and_blocks([passage], pause=pause)
        return float(self._model.similarity(self._query_vector, vector_1D)), block

    @cached_property
    def _query_vector(self) -> Tensor:
        assert self._query is not None
        return self._model.encoder.vectors([self._query])

    @cached_property
    def _neutral(self) -> float:
        """The score of a passage that leaves the query as likely as it is alone."""
        batch = RowBatch(self._model.lm, [None], room=len(self._question.ids))
        (alone,) = read_question(batch, self._question.ids, self._question.span)
        return scoring_of(self._model).score(alone, _NEUTRAL_COSINE)


def _yes_scores(served: ServedModel, prompts: _Prompts) -> _Scorer:
    """Return the scorer of method ``generate``."""
    words = [served.prompts.first_id(word) for word in ("Yes", "No")]

    def scores(passages: Sequence[Prompt], pause: Checkpoint | None) -> list[float]:
        block = _block_of(served.model, passages[0], pause)
        cache = prefix_cache(served.model.lm, [block], room=len(prompts.question))
        logits_V = prefill_in_pieces(served.model.lm, cache, prompts.question, pause)
        yes, no = (float(logits_V[word]) for word in words)
        return [yes - no]

    return scores


def _block_of(model: GritLM, passage: Prompt, pause: Checkpoint | None = None) -> KVBlock:
    """Return the KV block of a passage, of the kind that its embedding makes.

    It is causal where another adapter embeds.

    Args:
        model: the model.
        passage: the passage as an embedding prompt.
        pause: checkpoint callback, called between layers; None if no other work waits.
    """
    causal = model.settings.embeds_causally or not model.shares_embedding_pass
    return blocks_of(model.lm, [passage.ids], causal=causal, pause=pause)[0]
