"""Held-out evaluation: losses, accuracy and rank correlation. Shapes: N values."""

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
from gritlm.train.objectives import gradcache, losses
from gritlm.train.objectives.embedding import EmbeddingObjective
from gritlm.train.objectives.generation import GenerationObjective


class HeldOutEvaluation:
    """Evaluation on the rows of ``[evaluation]``, in fixed batches, the same in every process.

    Attributes:
        rows: datasets by stream.
    """

    def __init__(self, run: TrainConfig, collator: Collator) -> None:
        """Load the held-out sources of a run.

        Args:
            run: settings of the run.
            collator: converts examples to batches.

        Raises:
            InputError: a source cannot be read, or all of its scores are equal.
        """
        settings = run.evaluation
        skip = run.data.skip_bad_rows
        load = partial(sources.load, check=collator.require_usable, skip_bad=skip)
        self._collator = collator
        self._size = run.training.per_device_train_batch_size
        embedded = [load(source, "embedding") for source in settings.embedding if run.embeds]
        self._scored = [rows for rows in embedded if rows.scored]
        self._pairs = [row for rows in embedded if not rows.scored for row in rows]
        chats = [load(source, "generative") for source in settings.generative if run.writes]
        self.rows = {"held-out embedding": embedded, "held-out generative": chats}
        self._chats: list[Any] = [row for rows in chats for row in rows]
        for rows in self._scored:
            _require_order(rows)

    @torch.no_grad()
    def losses(
        self, module: Any, embedding: EmbeddingObjective, generation: GenerationObjective
    ) -> dict[str, float]:
        """Return ``loss_emb``, ``accuracy``, ``spearman``, ``loss_gen``, as rows allow.

        ``accuracy`` is the share of queries whose positive ranks first in its batch; ``spearman``
        the rank correlation of cosines and scores, as a mean over sources of scored pairs.

        Args:
            module: the trained module, possibly wrapped by DDP or FSDP2.
            embedding: embedding objective of the run.
            generation: generation objective of the run.
        """
        found: dict[str, float] = {}
        if self._pairs:
            found |= self._embedding(
                partial(module, "embed"), embedding.loss.temperature, embedding.at_once
            )
        if self._scored:
            coefficients = [
                self._spearman(module, rows, embedding.at_once) for rows in self._scored
            ]
            found["spearman"] = sum(coefficients) / len(coefficients)
        if self._chats:
            found["loss_gen"] = self._generative(module, generation)
        return found

    def _embedding(self, embed: Any, temperature: float, budget: int) -> dict[str, float]:
        loss = 0.0
        correct = 0
        count = 0
        for rows in _batches(self._pairs, self._size):
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
            correct += _correct(losses.similarity(query_QD, passage_PD), positive_Q, mask_QP)
            count += len(rows)
        return {"loss_emb": loss / count, "accuracy": correct / count}

    def _spearman(self, module: Any, rows: Dataset, budget: int) -> float:
        batch = self._collator.scored([row for row in rows if isinstance(row, ScoredExample)])
        first_ND, second_ND = (
            _embedded(partial(module, "embed"), prompts, budget)
            for prompts in (batch.queries, batch.passages)
        )
        return spearman(losses.cosines(first_ND, second_ND), batch.score_N)

    def _generative(self, module: Any, generation: GenerationObjective) -> float:
        """Return the mean cross-entropy over all supervised tokens."""
        samples = [self._collator.sample(row, Random(0)) for row in self._chats]
        total = 0.0
        count = 0
        for rows in generation.micro_batches([sample for sample in samples if sample is not None]):
            kept = losses.divisor_of(rows.labels_BL, kind="mixed")
            device = next(module.parameters()).device
            loss, _ = module("write", rows.to(device), Weights(torch.ones(kept, device=device)))
            total = total + float(loss)
            count = count + kept
        return total / max(1, count)


def _embedded(embed: Any, prompts: Sequence[Prompt], budget: int) -> Tensor:
    """Return the vectors (N, D) of prompts, computed in mini-batches of ``budget`` tokens."""
    rounds = gradcache.plan(prompts, budget)
    return gradcache.in_order([embed([prompts[row] for row in rows]) for rows in rounds], rounds)


def _require_order(rows: Dataset) -> None:
    if len({row.score for row in rows if isinstance(row, ScoredExample)}) < 2:
        raise InputError(
            f"[[evaluation.embedding]]: the scores of {rows.title} are all equal, so there is no "
            "order to measure; leave it out"
        )


def _batches(rows: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _correct(score_QP: Tensor, positive_Q: Tensor, mask_QP: Tensor) -> int:
    own_QP = torch.nn.functional.one_hot(positive_Q, score_QP.shape[1]).bool()
    kept_QP = score_QP.masked_fill(mask_QP & ~own_QP, float("-inf"))
    return int((kept_QP.argmax(dim=1) == positive_Q).sum())


def spearman(one_N: Tensor, other_N: Tensor) -> float:
    """Return Spearman's rank correlation, -1 to 1; 0 where all values of a side are equal."""
    ranks = [average_ranks(values_N) for values_N in (one_N, other_N)]
    one, other = (rank_N - rank_N.mean() for rank_N in ranks)
    scale = float(one.norm() * other.norm())
    return float(one @ other) / scale if scale else 0.0


def average_ranks(values_N: Tensor) -> Tensor:
    """Return the places (N,) in ascending order, from 1, as float64; equal values share a mean."""
    _, place_N, count_K = values_N.cpu().unique(return_inverse=True, return_counts=True)
    last_K = count_K.cumsum(dim=0).double()
    return (last_K - (count_K - 1) / 2)[place_N]
