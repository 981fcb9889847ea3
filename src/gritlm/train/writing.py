"""The generative half of a step: samples of this process in micro-batches, one loss over all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch

from gritlm.lm.encoder import batches
from gritlm.lm.tokens import Prompt
from gritlm.train import context, distributed, losses, pack
from gritlm.train.config import Loss
from gritlm.train.context import Blocked
from gritlm.train.gradcache import Ranks
from gritlm.train.module import Weights
from gritlm.train.pack import Rows

Write = Callable[[Rows, Weights], Any]


@dataclass(frozen=True)
class Writing:
    """The loss of the generative half and how samples are laid out.

    Attributes:
        budget: most tokens read at once.
        capacity: tokens of a packed row; None for one sample a row.
        router: weight of the routers' auxiliary loss.
        pad: id that fills rows up.
    """

    loss: Loss
    budget: int
    capacity: int | None
    router: float = 0.0
    pad: int = 0

    def backward(
        self, write: Write, samples: Sequence[Prompt], ranks: Ranks, *, device: torch.device
    ) -> dict[str, float]:
        """Add the gradients of one step; the parts of the loss by name, ``gen`` their sum.

        The loss is that of the samples of all processes together, whatever they are split into;
        the auxiliary loss of routers is the mean over micro-batches.
        """
        rounds = self._rounds(samples, ranks)
        sums: dict[str, float] = {}
        for number, (rows, weights) in enumerate(rounds, start=1):
            with nullcontext() if number == len(rounds) else ranks.unsynced():
                total, found = write(rows.to(device), _on(weights, device))
                total.backward()
            for name, value in {"gen": total, **found}.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach())
        return {name: distributed.mean(value) for name, value in sorted(sums.items())}

    def _rounds(self, samples: Sequence[Prompt], ranks: Ranks) -> list[tuple[Rows, Weights]]:
        """Micro-batches with their weights: as many of each kind in every process.

        Processes that share weights (FSDP) must call the model equally often, and rows with blocks
        may be read twice: one that has fewer of a kind reads others in their place, for nothing.
        """
        parts = self.micro_batches(samples)
        divisor = self._divisor(parts)
        made: list[tuple[Rows, Weights]] = []
        for own in (True, False):
            some = [rows for rows in parts if (rows.seen_BLL is not None) == own]
            missing = ranks.most(len(some)) - len(some)
            found = [(rows, self._weights(rows, divisor, own=own)) for rows in some]
            made += [(rows, replace(w, router=w.router / len(parts))) for rows, w in found]
            nothing = _nothing(self._weights(parts[0], divisor, own=own))
            made += [(parts[0], nothing)] * missing
        return made

    def micro_batches(self, samples: Sequence[Prompt]) -> list[Rows]:
        """Rows with blocks and rows without, each in groups under the budget."""
        blocked = [sample for sample in samples if isinstance(sample, Blocked)]
        plain = [sample for sample in samples if not isinstance(sample, Blocked)]
        made = [context.rows(group, pad=self.pad) for group in self._groups(blocked)]
        if self.capacity is None:
            return made + [pack.padded(group, pad=self.pad) for group in self._groups(plain)]
        width = max([self.capacity, *(len(sample.ids) for sample in plain)])
        layout = pack.best_fit([len(sample.ids) for sample in plain], width)
        step = max(1, self.budget // width)
        return made + [
            pack.rows(plain, layout[start : start + step], pad=self.pad)
            for start in range(0, len(layout), step)
        ]

    def _groups(self, samples: Sequence[Prompt]) -> list[list[Any]]:
        found = batches(samples, len(samples) or 1, self.budget, padded=True)
        return [[samples[i] for i in rows] for rows in found]

    def _divisor(self, parts: Sequence[Rows]) -> float:
        """What all processes hold over their number, since their gradients are averaged."""
        kind = self.loss.loss_gen_type
        own = sum(
            losses.divisor_of(rows.labels_BL, kind=kind, sample_BL=rows.sample_BL) for rows in parts
        )
        return distributed.total(own) / distributed.size()

    def _weights(self, rows: Rows, divisor: float, *, own: bool) -> Weights:
        said = self.loss
        token_N = losses.token_weights(
            rows.labels_BL, kind=said.loss_gen_type, factor=said.loss_gen_factor,
            sample_BL=rows.sample_BL, divisor=divisor,
        )  # fmt: skip
        kl = said.rag_kl_weight if own else said.kl_weight
        return Weights(token_N, kl=kl, own=own, router=self.router)


def _nothing(weights: Weights) -> Weights:
    return replace(weights, token_N=torch.zeros_like(weights.token_N), router=0.0)


def _on(weights: Weights, device: torch.device) -> Weights:
    return replace(weights, token_N=weights.token_N.to(device))
