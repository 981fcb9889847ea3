"""Losses on rows that are never trained on, read as in training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from random import Random
from typing import Any

import torch
from torch import Tensor

from gritlm.errors import InputError
from gritlm.lm.tokens import Prompt
from gritlm.train.config import TrainConfig
from gritlm.train.data import sources
from gritlm.train.data.collate import Collator
from gritlm.train.data.examples import ScoredExample
from gritlm.train.data.sources import Dataset
from gritlm.train.model.module import Weights
from gritlm.train.objectives import correlation, gradcache, losses
from gritlm.train.objectives.embedding import EmbeddingObjective
from gritlm.train.objectives.generation import GenerationObjective


class HeldOutEvaluation:
    """The rows of ``[evaluation]``, in fixed batches, measured by every process alike.

    Attributes:
        rows: sources by stream.
    """

    def __init__(self, run: TrainConfig, collator: Collator) -> None:
        """
        Raises:
            InputError: for a source that cannot be read, or whose scores are all equal.
        """
        said = run.evaluation
        skip = run.data.skip_bad_rows
        load = partial(sources.load, check=collator.require_usable, skip_bad=skip)
        self._collator = collator
        self._size = run.training.per_device_train_batch_size
        embedded = [load(each, "embedding") for each in said.embedding if run.embeds]
        self._scored = [rows for rows in embedded if rows.scored]
        self._pairs = [row for rows in embedded if not rows.scored for row in rows]
        chats = [load(each, "generative") for each in said.generative if run.writes]
        self.rows = {"held-out embedding": embedded, "held-out generative": chats}
        self._chats: list[Any] = [row for rows in chats for row in rows]
        for rows in self._scored:
            _require_order(rows)

    @torch.no_grad()
    def losses(
        self, module: Any, contrast: EmbeddingObjective, writing: GenerationObjective
    ) -> dict[str, float]:
        """``loss_emb`` and ``accuracy`` (the positive comes first in its batch), ``loss_gen``.

        Of scored pairs ``spearman``: the correlation of cosines and scores, mean over sources.
        """
        found: dict[str, float] = {}
        if self._pairs:
            found |= self._embedding(
                partial(module, "embed"), contrast.loss.temperature, contrast.at_once
            )
        if self._scored:
            each = [self._spearman(module, rows, contrast.at_once) for rows in self._scored]
            found["spearman"] = sum(each) / len(each)
        if self._chats:
            found["loss_gen"] = self._generative(module, writing)
        return found

    def _embedding(self, embed: Any, temperature: float, budget: int) -> dict[str, float]:
        loss = 0.0
        right = 0
        count = 0
        for rows in _parts(self._pairs, self._size):
            batch = self._collator.embedding(rows, [Random(number) for number in range(len(rows))])
            query_QD, passage_PD = (
                _embedded(embed, prompts, budget) for prompts in (batch.queries, batch.passages)
            )
            positive_Q = batch.keys.first_P.nonzero()[:, 0].to(query_QD.device)
            mask_QP = batch.keys.false_negatives().to(query_QD.device)
            loss += len(rows) * float(
                losses.contrastive(
                    query_QD,
                    passage_PD,
                    temperature=temperature,
                    positives=positive_Q,
                    mask_QP=mask_QP,
                )
            )
            right += _right(losses.similarity(query_QD, passage_PD), positive_Q, mask_QP)
            count += len(rows)
        return {"loss_emb": loss / count, "accuracy": right / count}

    def _spearman(self, module: Any, rows: Dataset, budget: int) -> float:
        batch = self._collator.scored([row for row in rows if isinstance(row, ScoredExample)])
        first_ND, second_ND = (
            _embedded(partial(module, "embed"), prompts, budget)
            for prompts in (batch.queries, batch.passages)
        )
        return correlation.spearman(losses.cosines(first_ND, second_ND), batch.score_N)

    def _generative(self, module: Any, writing: GenerationObjective) -> float:
        """Mean over all supervised tokens."""
        samples = [self._collator.sample(row, Random(0)) for row in self._chats]
        total = 0.0
        count = 0
        for rows in writing.micro_batches([sample for sample in samples if sample is not None]):
            kept = losses.divisor_of(rows.labels_BL, kind="mixed")
            device = next(module.parameters()).device
            loss, _ = module("write", rows.to(device), Weights(torch.ones(kept, device=device)))
            total = total + float(loss)
            count = count + kept
        return total / max(1, count)


def _embedded(embed: Any, prompts: Sequence[Prompt], budget: int) -> Tensor:
    """Vectors in the order of the prompts, from mini-batches of ``budget`` tokens."""
    rounds = gradcache.plan(prompts, budget)
    return gradcache.in_order([embed([prompts[row] for row in rows]) for rows in rounds], rounds)


def _require_order(rows: Dataset) -> None:
    if len({row.score for row in rows if isinstance(row, ScoredExample)}) < 2:
        raise InputError(
            f"[[evaluation.embedding]]: the scores of {rows.title} are all equal, so there is no "
            "order to measure; leave it out"
        )


def _parts(rows: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _right(score_QP: Tensor, positive_Q: Tensor, mask_QP: Tensor) -> int:
    own_QP = torch.nn.functional.one_hot(positive_Q, score_QP.shape[1]).bool()
    kept_QP = score_QP.masked_fill(mask_QP & ~own_QP, float("-inf"))
    return int((kept_QP.argmax(dim=1) == positive_Q).sum())
