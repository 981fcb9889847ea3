"""The embedding half of a step: GradCache over queries and passages of all processes.

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
from gritlm.train.data.collate import EmbeddingBatch, Keys, ScoredBatch, SideLengths
from gritlm.train.objectives import gradcache, losses
from gritlm.train.objectives.distillation import Teacher
from gritlm.train.objectives.gradcache import Ranks
from gritlm.train.objectives.losses import PairLoss
from gritlm.train.run import collectives

Embed = Callable[[Sequence[Prompt]], Tensor]
Shared = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class EmbeddingObjective:
    """The loss of the embedding half and how its gradient is taken.

    Attributes:
        budget: most tokens whose graphs are in memory.
        at_once: most tokens of a mini-batch, at most ``budget``.
        mask: leave false negatives out.
        teacher: None for no distillation.
    """

    loss: LossConfig
    budget: int
    at_once: int
    mask: bool = True
    teacher: Teacher | None = None

    def backward(
        self, embed: Embed, batch: EmbeddingBatch | ScoredBatch, ranks: Ranks
    ) -> dict[str, float]:
        """Add the gradients of one step; the parts of the loss by name, ``emb`` their sum."""
        if not self.loss.negatives_cross_device:
            ranks = Ranks(most=ranks.most, unsynced=ranks.unsynced)
        shared = collectives.gathered if self.loss.negatives_cross_device else _own
        goals = self._goals(batch, shared)
        parts: dict[str, float] = {}

        def loss(query_QD: Tensor, passage_PD: Tensor) -> Tensor:
            found = {name: goal(query_QD, passage_PD) for name, goal in goals.items()}
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

    def _goals(self, batch: EmbeddingBatch | ScoredBatch, shared: Shared) -> dict[str, PairLoss]:
        """The parts of the loss by name, each with its weight."""
        goals: dict[str, PairLoss] = {}
        if isinstance(batch, ScoredBatch):
            goals["scored"] = self._scored(batch, shared)
        else:
            goals["contrastive"] = self._contrastive(batch, shared)
        if self.teacher is not None:
            goals["distillation"] = self._distillation(batch, shared, self.teacher)
        return goals

    def _contrastive(self, batch: EmbeddingBatch, shared: Shared) -> PairLoss:
        keys = Keys(*(shared(getattr(batch.keys, field.name)) for field in fields(Keys)))
        positive_Q = keys.first_P.nonzero()[:, 0]
        mask_QP = keys.false_negatives() if self.mask else None

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

        return self._weighted(loss, self.loss.contrastive_weight)

    def _scored(self, batch: ScoredBatch, shared: Shared) -> PairLoss:
        score_N = shared(batch.score_N)
        temperature = self.loss.scored_temperature
        loss = partial(losses.cosent, score_N=score_N, temperature=temperature)
        return self._weighted(loss, self.loss.scored_weight)

    def _weighted(self, loss: PairLoss, weight: float) -> PairLoss:
        """The loss as often as ``matryoshka_dims`` says, times its weight."""
        if dims := self.loss.matryoshka_dims:
            loss = losses.matryoshka(loss, dims, self.loss.matryoshka_weights or None)
        return lambda query_QD, passage_PD: weight * loss(query_QD, passage_PD)

    def _distillation(self, batch: SideLengths, shared: Shared, teacher: Teacher) -> PairLoss:
        sides = (batch.query_texts, batch.passage_texts)
        teacher_QP = losses.similarity(*(shared(teacher.vectors(texts)) for texts in sides))
        said = self.loss

        def loss(query_QD: Tensor, passage_PD: Tensor) -> Tensor:
            return said.teacher_weight * losses.distil(
                query_QD,
                passage_PD,
                teacher_QP.to(query_QD.device),
                temperature=said.student_temperature or said.temperature,
                teacher_temperature=said.teacher_temperature,
            )

        return loss


def _own(values: Tensor) -> Tensor:
    return values
