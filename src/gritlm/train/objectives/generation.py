"""The generative half of a step: samples of this process in micro-batches, one loss over all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch

from gritlm.lm.encoder import batches
from gritlm.lm.tokens import Prompt
from gritlm.train.config import LossConfig
from gritlm.train.data import packing, rag_samples
from gritlm.train.data.packing import PackedBatch
from gritlm.train.data.rag_samples import Blocked
from gritlm.train.model.module import Weights
from gritlm.train.objectives import losses
from gritlm.train.objectives.gradcache import Ranks
from gritlm.train.run import collectives

Write = Callable[[PackedBatch, Weights], Any]


@dataclass(frozen=True)
class _Kind:
    """What samples that are read together have in common.

    Attributes:
        rag: they are RAG samples, with the model itself as their reference.
        kl: weight of the divergence from their reference; 0: none is read.
    """

    rag: bool
    kl: float


@dataclass(frozen=True)
class GenerationObjective:
    """The loss of the generative half and how samples are laid out.

    Attributes:
        budget: most tokens read at once.
        capacity: tokens of a packed row; None for one sample a row.
        router: weight of the routers' auxiliary loss.
        pad: id that fills rows up.
    """

    loss: LossConfig
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
        return {name: collectives.mean(value) for name, value in sorted(sums.items())}

    def _rounds(self, samples: Sequence[Prompt], ranks: Ranks) -> list[tuple[PackedBatch, Weights]]:
        """Micro-batches with their weights: as many of each kind in every process.

        Processes that share weights (FSDP) must call the model equally often, and rows with a
        divergence are read twice: one that has fewer of a kind reads others in their place, for
        nothing.
        """
        kinds = self._kinds(samples)
        parts = [rows for some in kinds.values() for rows in some]
        divisor = self._divisor(parts)
        made: list[tuple[PackedBatch, Weights]] = []
        for kind, some in kinds.items():
            missing = ranks.most(len(some)) - len(some)
            found = [(rows, self._weights(rows, divisor, kind)) for rows in some]
            made += [(rows, replace(w, router=w.router / len(parts))) for rows, w in found]
            nothing = _nothing(self._weights(parts[0], divisor, kind))
            made += [(parts[0], nothing)] * missing
        return made

    def micro_batches(self, samples: Sequence[Prompt]) -> list[PackedBatch]:
        """Samples in groups under the budget, those of one kind together."""
        return [rows for some in self._kinds(samples).values() for rows in some]

    def _kinds(self, samples: Sequence[Prompt]) -> dict[_Kind, list[PackedBatch]]:
        """Micro-batches by kind; every process has all kinds, in the same order."""
        said = self.loss
        kinds = (_Kind(True, said.rag_kl_weight), _Kind(True, 0.0), _Kind(False, said.kl_weight))
        split: dict[_Kind, list[Any]] = {kind: [] for kind in kinds}
        for sample in samples:
            split[self._kind(sample)].append(sample)
        return {
            kind: self._of_rag(some) if kind.rag else self._of_chats(some)
            for kind, some in split.items()
        }

    def _kind(self, sample: Prompt) -> _Kind:
        if not isinstance(sample, Blocked):
            return _Kind(False, self.loss.kl_weight)
        # Without blocks (mode "none") it is read as its reference would be.
        return _Kind(True, self.loss.rag_kl_weight if sample.blocks else 0.0)

    def _of_rag(self, samples: Sequence[Blocked]) -> list[PackedBatch]:
        return [rag_samples.rows(group, pad=self.pad) for group in self._groups(samples)]

    def _of_chats(self, samples: Sequence[Prompt]) -> list[PackedBatch]:
        if self.capacity is None:
            return [packing.padded(group, pad=self.pad) for group in self._groups(samples)]
        width = max([self.capacity, *(len(sample.ids) for sample in samples)])
        layout = packing.best_fit([len(sample.ids) for sample in samples], width)
        step = max(1, self.budget // width)
        return [
            packing.rows(samples, layout[start : start + step], pad=self.pad)
            for start in range(0, len(layout), step)
        ]

    def _groups(self, samples: Sequence[Prompt]) -> list[list[Any]]:
        found = batches(samples, len(samples) or 1, self.budget, padded=True)
        return [[samples[i] for i in rows] for rows in found]

    def _divisor(self, parts: Sequence[PackedBatch]) -> float:
        """What all processes hold over their number, since their gradients are averaged."""
        kind = self.loss.loss_gen_type
        own = sum(
            losses.divisor_of(rows.labels_BL, kind=kind, sample_BL=rows.sample_BL) for rows in parts
        )
        return collectives.total(own) / collectives.size()

    def _weights(self, rows: PackedBatch, divisor: float, kind: _Kind) -> Weights:
        said = self.loss
        token_N = losses.token_weights(
            rows.labels_BL,
            kind=said.loss_gen_type,
            factor=said.loss_gen_factor,
            sample_BL=rows.sample_BL,
            divisor=divisor,
        )
        return Weights(token_N, kl=kind.kl, own=kind.rag, router=self.router)


def _nothing(weights: Weights) -> Weights:
    return replace(weights, token_N=torch.zeros_like(weights.token_N), router=0.0)


def _on(weights: Weights, device: torch.device) -> Weights:
    return replace(weights, token_N=weights.token_N.to(device))
