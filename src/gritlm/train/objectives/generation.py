"""Generation objective of a step: micro-batches of samples, with one loss over all processes."""

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
    """Kind of samples that can share a micro-batch.

    Attributes:
        rag: whether they are RAG samples, whose reference is the model itself.
        kl: weight of the KL divergence from the reference; 0 for no reference.
    """

    rag: bool
    kl: float


@dataclass(frozen=True)
class GenerationObjective:
    """Generation objective: its loss terms and the layout of samples in rows.

    Attributes:
        loss: settings of the loss.
        budget: maximum number of tokens of a micro-batch.
        capacity: tokens of a packed row; None for one sample in each row.
        router: weight of the routers' auxiliary loss.
        pad: id of the padding.
    """

    loss: LossConfig
    budget: int
    capacity: int | None
    router: float = 0.0
    pad: int = 0

    def backward(
        self, write: Write, samples: Sequence[Prompt], ranks: Ranks, *, device: torch.device
    ) -> dict[str, float]:
        """Add the gradients of one step; return the loss terms by name, their sum as ``gen``.

        The loss is that of the samples of all processes, however they are split; the auxiliary
        loss of routers is a mean over micro-batches.

        Args:
            write: function of rows and weights that returns the loss and its parts.
            samples: samples of this process.
            ranks: collective operations of the processes.
            device: device of the model.
        """
        rounds = self._rounds(samples, ranks)
        sums: dict[str, float] = {}
        for number, (rows, weights) in enumerate(rounds, start=1):
            with nullcontext() if number == len(rounds) else ranks.unsynced():
                total, found = write(rows.to(device), _to_device(weights, device))
                total.backward()
            for name, value in {"gen": total, **found}.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach())
        return {name: collectives.mean(value) for name, value in sorted(sums.items())}

    def _rounds(self, samples: Sequence[Prompt], ranks: Ranks) -> list[tuple[PackedBatch, Weights]]:
        """Return micro-batches with weights, in equal numbers of each kind in every process.

        Processes with sharded weights (FSDP) must call the model equally often, and rows with a
        divergence need two passes. A process with fewer micro-batches of a kind adds dummy ones
        with weight 0.
        """
        kinds = self._kinds(samples)
        parts = [rows for group in kinds.values() for rows in group]
        divisor = self._divisor(parts)
        rounds: list[tuple[PackedBatch, Weights]] = []
        for kind, group in kinds.items():
            missing = ranks.most(len(group)) - len(group)
            found = [(rows, self._weights(rows, divisor, kind)) for rows in group]
            rounds += [(rows, replace(w, router=w.router / len(parts))) for rows, w in found]
            dummy = _zeroed(self._weights(parts[0], divisor, kind))
            rounds += [(parts[0], dummy)] * missing
        return rounds

    def micro_batches(self, samples: Sequence[Prompt]) -> list[PackedBatch]:
        """Return micro-batches under the token budget, each of one kind of samples."""
        return [rows for group in self._kinds(samples).values() for rows in group]

    def _kinds(self, samples: Sequence[Prompt]) -> dict[_Kind, list[PackedBatch]]:
        """Return micro-batches by kind; every process has all kinds, in the same order."""
        settings = self.loss
        kinds = (
            _Kind(True, settings.rag_kl_weight),
            _Kind(True, 0.0),
            _Kind(False, settings.kl_weight),
        )
        split: dict[_Kind, list[Any]] = {kind: [] for kind in kinds}
        for sample in samples:
            split[self._kind(sample)].append(sample)
        return {
            kind: self._rag_rows(group) if kind.rag else self._chat_rows(group)
            for kind, group in split.items()
        }

    def _kind(self, sample: Prompt) -> _Kind:
        if not isinstance(sample, Blocked):
            return _Kind(False, self.loss.kl_weight)
        # Without blocks (mode "none") the sample equals its reference.
        return _Kind(True, self.loss.rag_kl_weight if sample.blocks else 0.0)

    def _rag_rows(self, samples: Sequence[Blocked]) -> list[PackedBatch]:
        return [rag_samples.rows(group, pad=self.pad) for group in self._sample_groups(samples)]

    def _chat_rows(self, samples: Sequence[Prompt]) -> list[PackedBatch]:
        if self.capacity is None:
            return [packing.padded(group, pad=self.pad) for group in self._sample_groups(samples)]
        width = max([self.capacity, *(len(sample.ids) for sample in samples)])
        layout = packing.best_fit([len(sample.ids) for sample in samples], width)
        step = max(1, self.budget // width)
        return [
            packing.rows(samples, layout[start : start + step], pad=self.pad)
            for start in range(0, len(layout), step)
        ]

    def _sample_groups(self, samples: Sequence[Prompt]) -> list[list[Any]]:
        found = batches(samples, len(samples) or 1, self.budget, padded=True)
        return [[samples[i] for i in rows] for rows in found]

    def _divisor(self, parts: Sequence[PackedBatch]) -> float:
        """Return the divisor of all processes over their number, since gradients are averaged."""
        kind = self.loss.loss_gen_type
        own = sum(
            losses.divisor_of(rows.labels_BL, kind=kind, sample_BL=rows.sample_BL) for rows in parts
        )
        return collectives.total(own) / collectives.size()

    def _weights(self, rows: PackedBatch, divisor: float, kind: _Kind) -> Weights:
        settings = self.loss
        token_N = losses.token_weights(
            rows.labels_BL,
            kind=settings.loss_gen_type,
            factor=settings.loss_gen_factor,
            sample_BL=rows.sample_BL,
            divisor=divisor,
        )
        return Weights(token_N, kl=kind.kl, own=kind.rag, router=self.router)


def _zeroed(weights: Weights) -> Weights:
    return replace(weights, token_N=torch.zeros_like(weights.token_N), router=0.0)


def _to_device(weights: Weights, device: torch.device) -> Weights:
    return replace(weights, token_N=weights.token_N.to(device))
