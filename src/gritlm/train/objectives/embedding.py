"""Embedding objective of a step: GradCache over queries and passages of all processes.

Shapes: Q queries, P passages of all processes, D dimensions; N scored pairs of all processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial

import torch
from torch import Tensor

from gritlm.lm.tokens import Prompt
from gritlm.train.config import LossConfig
from gritlm.train.data.collate import EmbeddingBatch, Keys, QueryPassageBatch, ScoredBatch
from gritlm.train.objectives import gradcache, losses
from gritlm.train.objectives.distillation import Teacher
from gritlm.train.objectives.earlier_passages import EarlierPassages
from gritlm.train.objectives.gradcache import Ranks
from gritlm.train.objectives.losses import PairLoss
from gritlm.train.run import collectives

Embed = Callable[[Sequence[Prompt]], Tensor]
Shared = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class EmbeddingObjective:
    """Embedding objective: its loss terms and the memory of its backward pass.

    Attributes:
        loss: settings of the loss.
        budget: maximum number of tokens whose graphs are in memory.
        at_once: maximum number of tokens of a mini-batch.
        mask: exclude false negatives.
        teacher: model whose similarities are distilled; None without distillation.
        earlier: passages of earlier steps as further negatives; None for none.
    """

    loss: LossConfig
    budget: int
    at_once: int
    mask: bool = True
    teacher: Teacher | None = None
    earlier: EarlierPassages | None = None

    def backward(
        self, embed: Embed, batch: EmbeddingBatch | ScoredBatch, ranks: Ranks
    ) -> dict[str, float]:
        """Add the gradients of one step; return the loss terms by name, their sum as ``emb``.

        Args:
            embed: function of prompts that returns their vectors (n, D).
            batch: batch of this process.
            ranks: collective operations of the processes.
        """
        if not self.loss.negatives_cross_device:
            ranks = Ranks(most=ranks.most, unsynced=ranks.unsynced)
        shared = collectives.gathered if self.loss.negatives_cross_device else _own
        keys = _shared_keys(batch, shared)
        terms = self._loss_terms(batch, keys, shared)
        parts: dict[str, float] = {}

        def loss(query_QD: Tensor, passage_PD: Tensor) -> Tensor:
            found = {name: term(query_QD, passage_PD) for name, term in terms.items()}
            if self.earlier is not None and keys is not None:
                self.earlier.add(passage_PD, keys)
            parts.update({name: float(part.detach()) for name, part in found.items()})
            return torch.stack(list(found.values())).sum()

        total = gradcache.backward(
            embed,
            (batch.queries, batch.passages),
            loss,
            ranks=ranks,
            budget=min(self.at_once, self.budget),
            kept=self.budget,
        )
        found = {"emb": float(total), **parts}
        if self.loss.negatives_cross_device:
            return found
        return {name: collectives.mean(value) for name, value in found.items()}

    def _loss_terms(
        self, batch: EmbeddingBatch | ScoredBatch, keys: Keys | None, shared: Shared
    ) -> dict[str, PairLoss]:
        """Return the weighted loss terms by name."""
        terms: dict[str, PairLoss] = {}
        if isinstance(batch, ScoredBatch):
            terms["scored"] = self._scored(batch, shared)
        elif keys is not None:
            terms["contrastive"] = self._contrastive(keys)
        if self.teacher is not None:
            terms["distillation"] = self._distillation(batch, shared, self.teacher)
        return terms

    def _contrastive(self, keys: Keys) -> PairLoss:
        positive_Q = keys.first_P.nonzero()[:, 0]
        earlier_ED, every = (None, keys) if self.earlier is None else self.earlier.beyond(keys)
        mask_QP = every.false_negatives() if self.mask else None

        def loss(query_QD: Tensor, passage_PD: Tensor) -> Tensor:
            device = query_QD.device
            return losses.contrastive(
                query_QD,
                passage_PD,
                temperature=self.loss.temperature,
                positives=positive_Q.to(device),
                symmetric=self.loss.symmetric,
                mask_QP=None if mask_QP is None else mask_QP.to(device),
            )

        weighted = self._weighted(loss, self.loss.contrastive_weight)
        if earlier_ED is None:
            return weighted
        return lambda query_QD, passage_PD: weighted(query_QD, torch.cat([passage_PD, earlier_ED]))

    def _scored(self, batch: ScoredBatch, shared: Shared) -> PairLoss:
        score_N = shared(batch.score_N)
        temperature = self.loss.scored_temperature
        loss = partial(losses.cosent, score_N=score_N, temperature=temperature)
        return self._weighted(loss, self.loss.scored_weight)

    def _weighted(self, loss: PairLoss, weight: float) -> PairLoss:
        """Return the loss with ``matryoshka_dims`` applied, times its weight."""
        if dims := self.loss.matryoshka_dims:
            loss = losses.matryoshka(loss, dims, self.loss.matryoshka_weights or None)
        return lambda query_QD, passage_PD: weight * loss(query_QD, passage_PD)

    def _distillation(self, batch: QueryPassageBatch, shared: Shared, teacher: Teacher) -> PairLoss:
        sides = (batch.query_texts, batch.passage_texts)
        teacher_QP = losses.similarity(*(shared(teacher.vectors(texts)) for texts in sides))
        settings = self.loss

        def loss(query_QD: Tensor, passage_PD: Tensor) -> Tensor:
            return settings.teacher_weight * losses.distil(
                query_QD,
                passage_PD,
                teacher_QP.to(query_QD.device),
                temperature=settings.student_temperature or settings.temperature,
                teacher_temperature=settings.teacher_temperature,
            )

        return loss


def _shared_keys(batch: EmbeddingBatch | ScoredBatch, shared: Shared) -> Keys | None:
    """Return the keys of the texts of all processes; None for scored pairs."""
    if isinstance(batch, ScoredBatch):
        return None
    return Keys(*(shared(getattr(batch.keys, field.name)) for field in fields(Keys)))


def _own(values: Tensor) -> Tensor:
    return values
