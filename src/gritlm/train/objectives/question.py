"""Question objective of a step: a question is likeliest after the passage that answers it.

Each question is read after its own passage and after each of a few others, one passage at a time,
as in an answer from several cached passages: the row with the highest mean log-likelihood of the
question goes on (UPR, arXiv 2204.07496). The loss is the cross-entropy of the right passage.

Shapes: B rows, G groups, P passages of a group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from gritlm.lm.tokens import Prompt
from gritlm.train.config import LossConfig
from gritlm.train.data import packing, rag_samples
from gritlm.train.data.packing import PackedBatch
from gritlm.train.data.rag_samples import Blocked
from gritlm.train.objectives.gradcache import Ranks
from gritlm.train.run import collectives

Score = Callable[[PackedBatch], Tensor]
Group = tuple[Blocked, ...]


@dataclass(frozen=True)
class QuestionObjective:
    """Question objective: its loss and the memory of its backward pass.

    Attributes:
        loss: settings of the loss.
        budget: maximum number of tokens of a micro-batch; a group is never split.
        pad: id of the padding.
    """

    loss: LossConfig
    budget: int
    pad: int = 0

    def backward(
        self,
        score: Score,
        groups: Sequence[Group],
        ranks: Ranks,
        *,
        spare: Prompt,
        device: torch.device,
    ) -> dict[str, float]:
        """Add the gradients of one step; return the loss as ``question`` and the share of right
        passages as ``right``; empty without groups in any process.

        Args:
            score: function of rows that returns their mean log-likelihoods (B,).
            groups: groups of this process, the right passage first.
            ranks: collective operations of the processes. Gradients are averaged in a later
                backward pass of the step.
            spare: sample of this process, read with weight 0 where others have more groups.
            device: device of the model.
        """
        parts = self.micro_batches(groups)
        count = collectives.total(len(groups))
        loss = right = 0.0
        for number in range(ranks.most(len(parts))):
            part = parts[number] if number < len(parts) else []
            samples = [sample for group in part for sample in group]
            rows = rag_samples.rows(samples, pad=self.pad) if samples else self._spare(spare)
            with ranks.unsynced():
                score_B = score(rows.to(device))
                total = choice_loss(
                    score_B, [len(group) for group in part], self.loss.question_temperature
                )
                factor = self.loss.question_weight * collectives.size() / count
                (factor * total).backward()
            loss += float(total.detach()) * factor
            right += _right(score_B.detach(), part)
        if not count:
            return {}
        shares = {"question": loss, "right": right * collectives.size() / count}
        return {name: collectives.mean(value) for name, value in shares.items()}

    def micro_batches(self, groups: Sequence[Group]) -> list[list[Group]]:
        """Return groups of like lengths together, as many as the token budget has room for."""
        parts: list[list[Group]] = []
        rows = 0
        for group in sorted(groups, key=_longest, reverse=True):
            rows += len(group)
            if not parts or rows * _longest(parts[-1][0]) > self.budget:
                parts.append([])
                rows = len(group)
            parts[-1].append(group)
        return parts

    def _spare(self, sample: Prompt) -> PackedBatch:
        if isinstance(sample, Blocked):
            return rag_samples.rows([sample], pad=self.pad)
        return packing.padded([sample], pad=self.pad)


def choice_loss(score_B: Tensor, sizes: Sequence[int], temperature: float) -> Tensor:
    """Return the summed cross-entropy of the first passage of each group; 0 without groups.

    Args:
        score_B: scores of all passages, group after group.
        sizes: number of passages of each group; their sum is the number of scores, or 0.
        temperature: divisor of the scores.
    """
    if not sizes:
        return score_B.sum() * 0
    first = torch.zeros(1, dtype=torch.long, device=score_B.device)
    scores = (score_B / temperature).split(list(sizes))
    return torch.stack([F.cross_entropy(score_P[None], first) for score_P in scores]).sum()


def _right(score_B: Tensor, groups: Sequence[Group]) -> int:
    """Return the number of groups whose first passage has the highest score."""
    scores = score_B.split([len(group) for group in groups]) if groups else ()
    return sum(int(score_P.argmax() == 0) for score_P in scores)


def _longest(group: Group) -> int:
    return max(len(sample.ids) for sample in group)
