"""The embedding half of a step: GradCache over queries and passages of all processes.

Shapes: Q queries, P passages of all processes, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial

import torch
from torch import Tensor

from gritlm.lm.tokens import Prompt
from gritlm.train import distributed, gradcache, losses
from gritlm.train.collate import EmbeddingBatch, Keys
from gritlm.train.config import Loss
from gritlm.train.gradcache import Ranks
from gritlm.train.teacher import Teacher

Embed = Callable[[Sequence[Prompt]], Tensor]


@dataclass(frozen=True)
class Contrast:
    """The loss of the embedding half and how its gradient is taken.

    Attributes:
        budget: most tokens whose graphs are in memory.
        at_once: most tokens of a mini-batch, at most ``budget``.
        mask: leave false negatives out.
        teacher: None for no distillation.
    """

    loss: Loss
    budget: int
    at_once: int
    mask: bool = True
    teacher: Teacher | None = None

    def backward(self, embed: Embed, batch: EmbeddingBatch, ranks: Ranks) -> dict[str, float]:
        """Add the gradients of one step; the parts of the loss by name, ``emb`` their sum."""
        if not self.loss.negatives_cross_device:
            ranks = Ranks(most=ranks.most, unsynced=ranks.unsynced)
        shared = distributed.gathered if self.loss.negatives_cross_device else _own
        keys = Keys(*(shared(getattr(batch.keys, field.name)) for field in fields(Keys)))
        score_QP = self._teacher_scores(batch, shared)
        parts: dict[str, float] = {}

        def loss(query_QD: Tensor, passage_PD: Tensor) -> Tensor:
            found = self._parts(query_QD, passage_PD, keys, score_QP)
            parts.update({name: float(part.detach()) for name, part in found.items()})
            return torch.stack(list(found.values())).sum()

        total = gradcache.backward(
            embed, (batch.queries, batch.passages), loss, ranks=ranks,
            budget=min(self.at_once, self.budget), kept=self.budget,
        )  # fmt: skip
        found = {"emb": float(total), **parts}
        if self.loss.negatives_cross_device:
            return found
        return {name: distributed.mean(value) for name, value in found.items()}

    def _parts(
        self, query_QD: Tensor, passage_PD: Tensor, keys: Keys, teacher_QP: Tensor | None
    ) -> dict[str, Tensor]:
        said, device = self.loss, query_QD.device
        pairs: losses.PairLoss = partial(
            losses.contrastive,
            temperature=said.temperature,
            positives=keys.first_P.nonzero()[:, 0].to(device),
            mask_QP=keys.false_negatives().to(device) if self.mask else None,
            symmetric=said.symmetric,
        )
        if said.matryoshka_dims:
            pairs = losses.matryoshka(pairs, said.matryoshka_dims, said.matryoshka_weights or None)
        found = {"contrastive": said.contrastive_weight * pairs(query_QD, passage_PD)}
        if teacher_QP is not None:
            found["distillation"] = said.teacher_weight * losses.distil(
                query_QD, passage_PD, teacher_QP.to(device),
                temperature=said.student_temperature or said.temperature,
                teacher_temperature=said.teacher_temperature,
            )  # fmt: skip
        return found

    def _teacher_scores(
        self, batch: EmbeddingBatch, shared: Callable[[Tensor], Tensor]
    ) -> Tensor | None:
        if self.teacher is None:
            return None
        query_QD, passage_PD = (
            shared(self.teacher.vectors(texts))
            for texts in (batch.query_texts, batch.passage_texts)
        )
        return losses.similarity(query_QD, passage_PD)


def _own(values: Tensor) -> Tensor:
    return values
