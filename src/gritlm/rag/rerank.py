"""Reranking by the model: by the likelihood of the question, or by an answer of yes or no.

Method ``likelihood`` reads the question after each passage and ranks as the fusion of passages does
(:mod:`gritlm.rag.fusion`). Method ``yes-no`` asks whether the passage answers the question. Its
template follows the passage as it is embedded, so the KV block of the passage is reused::

    <|user|>
    {question}

    Does the passage before it answer the question? Answer yes or no.
    <|assistant|>

The score is the logit of "Yes" less that of "No" as the first token of the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

from gritlm.errors import ModelError
from gritlm.lm.generator import prefill, prefix_cache
from gritlm.lm.gritlm import GritLM
from gritlm.lm.hub.model_config import FusionSettings
from gritlm.lm.kv.block import KVBlock
from gritlm.lm.kv.row_batch import RowBatch
from gritlm.prompts import for_yes_no
from gritlm.rag.cooperative import Checkpoint
from gritlm.rag.fusion import SpannedIds, read_question
from gritlm.rag.plan import MOST_ROWS, PromptAssembler, PromptPart, question_after, rows_together
from gritlm.rag.reuse.blocks import BlockProvider
from gritlm.rag.types import Hit, Trace

RerankMethod = Literal["yes-no", "likelihood"]
RERANK_METHODS: tuple[RerankMethod, ...] = get_args(RerankMethod)
# The score of a model without a calibration: the likelihood alone.
_LIKELIHOOD = FusionSettings(cosine=0.0, margin=0.0)


def scoring_of(model: GritLM) -> FusionSettings:
    """Return the weight of the cosine in the score of a passage: 0 without a calibration."""
    return model.settings.fusion or _LIKELIHOOD


def likelihood_scores(
    model: GritLM, blocks: Sequence[KVBlock], cosines: Sequence[float], question: SpannedIds
) -> list[float]:
    """Return the scores by which passages are ranked: those of the fusion of passages.

    Args:
        model: the model.
        blocks: KV block of each passage; all are read in one batch.
        cosines: cosine of the question and each passage.
        question: token ids of the question after a passage.
    """
    batch = RowBatch(model.lm, blocks, room=len(question.ids))
    likelihoods = read_question(batch, question.ids, question.span)
    scoring = scoring_of(model)
    return [scoring.score(*pair) for pair in zip(likelihoods, cosines, strict=True)]


class Reranker:
    """Scores passages by the logit of yes less the logit of no, or by the question's likelihood.

    Args:
        model: the model.
        blocks: provider of KV blocks.
        assembler: lays out prompts for the model.
        causal: kind of the blocks.
    """

    def __init__(
        self, model: GritLM, blocks: BlockProvider, assembler: PromptAssembler, *, causal: bool
    ) -> None:
        self._model = model
        self._blocks = blocks
        self._assembler = assembler
        self._causal = causal

    def ranked(
        self,
        question: str,
        hits: Sequence[Hit],
        checkpoint: Checkpoint | None = None,
        trace: Trace | None = None,
        *,
        method: RerankMethod = "likelihood",
    ) -> list[tuple[Hit, float]]:
        """Return the passages with their scores, the best first; equal scores keep their order.

        Args:
            question: the question.
            hits: passages to score.
            checkpoint: checkpoint callback, called after each passage or batch of passages.
            trace: takes the number of tokens read.
            method: ``likelihood`` or ``yes-no``.
        """
        trace = Trace() if trace is None else trace
        scores: list[float] = []
        while len(scores) < len(hits):
            rest = hits[len(scores) :]
            if method == "yes-no":
                scores.append(self.score(question, rest[0], trace))
            else:
                scores += self.likelihood_scores(question, rest, trace)
            if checkpoint is not None:
                checkpoint()
        best = sorted(zip(hits, scores, strict=True), key=lambda pair: -pair[1])
        return [(replace(hit, rank=rank), score) for rank, (hit, score) in enumerate(best, 1)]

    def likelihood_scores(
        self, question: str, hits: Sequence[Hit], trace: Trace | None = None
    ) -> list[float]:
        """Return the scores of the first passages, as many as are read in one batch.

        It is the score of the fusion of passages; without a calibration of the model it is the mean
        log-probability of the question alone.
        """
        asked = SpannedIds(*question_after(self._assembler.tokens, question))
        read = self._assembler.ids_of([hit.passage for hit in hits[:MOST_ROWS]])
        together = rows_together([len(each) + len(asked.ids) for each in read])
        parts = [PromptPart(read[row], hits[row]) for row in range(together)]
        own = Trace()
        blocks = self._blocks.of(parts, causal=self._causal, question=None, trace=own)
        if trace is not None:
            trace.tokens_reranked += own.tokens_computed + len(parts) * len(asked.ids)
        cosines = [hit.score for hit in hits[:together]]
        return likelihood_scores(self._model, blocks, cosines, asked)

    def score(self, question: str, hit: Hit, trace: Trace | None = None) -> float:
        """Return the logit of yes less the logit of no for one passage."""
        lm = self._model.lm
        own = Trace()
        (ids,) = self._assembler.ids_of([hit.passage])
        part = PromptPart(ids, hit)
        blocks = self._blocks.of([part], causal=self._causal, question=None, trace=own)
        tail = self._assembler.tokens.for_chat(for_yes_no(question), start=False).ids
        if trace is not None:
            trace.tokens_reranked += own.tokens_computed + len(tail)
        logits_V = prefill(lm, prefix_cache(lm, blocks, room=len(tail)), tail)
        return float(logits_V[self._first_id("Yes")] - logits_V[self._first_id("No")])

    def _first_id(self, word: str) -> int:
        ids = self._assembler.tokens.pieces([word], first=False)[0]
        if not ids:
            raise ModelError(
                f"the tokenizer has no ids for {word!r}: this model cannot rerank; leave rerank 0"
            )
        return ids[0]
