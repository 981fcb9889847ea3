"""Packing of generative samples into rows of token ids, each sample with positions from 0.

Shapes: B rows, L positions.

Models of transformers take position 0 as the start of a sample, and keep samples apart in causal
attention, when they are called with ``position_ids`` and without an attention mask. (Their flash
attention does so only for a batch of one row.)
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from gritlm.errors import InputError
from gritlm.lm.media.senses import MediaTokens
from gritlm.lm.tokens import Prompt
from gritlm.train.objectives.losses import IGNORE


@dataclass(frozen=True)
class PackedBatch:
    """Rows of generative samples with labels, positions and attention.

    Attributes:
        ids_BL: token ids, padded on the right.
        labels_BL: ids of the tokens in the loss, ``IGNORE`` elsewhere.
        position_BL: positions 0, 1, ... from the start of each sample, and of the padding.
        sample_BL: index of the sample; padding has the index of the last sample of its row.
        real_BL: false for padding.
        seen_BLL: tokens (last axis) that each token attends to; None: earlier ones of its sample.
        media: images and sounds of the samples; their placeholders are negative ids.
    """

    ids_BL: Tensor
    labels_BL: Tensor
    position_BL: Tensor
    sample_BL: Tensor
    real_BL: Tensor
    seen_BLL: Tensor | None = None
    media: tuple[MediaTokens, ...] = ()

    def to(self, device: torch.device) -> PackedBatch:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {
            name: each.to(device) for name, each in values.items() if isinstance(each, Tensor)
        }
        return replace(self, **moved)


def packed(samples: Sequence[Prompt], *, capacity: int, pad: int = 0) -> PackedBatch:
    """Pack samples into rows of ``capacity`` tokens (best-fit decreasing).

    Args:
        samples: the samples.
        capacity: maximum number of tokens of a row.
        pad: id of the padding.

    Raises:
        InputError: a sample is longer than a row.
    """
    return rows(samples, best_fit([len(sample.ids) for sample in samples], capacity), pad=pad)


def padded(samples: Sequence[Prompt], *, pad: int = 0) -> PackedBatch:
    """Return one sample for each row, padded on the right."""
    return rows(samples, [[index] for index in range(len(samples))], pad=pad)


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Return the indices of the samples of each row (best-fit decreasing).

    Raises:
        InputError: a sample is longer than a row.
    """
    plan_rows: list[list[int]] = []
    free: list[tuple[int, int]] = []  # (room left, row), sorted
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[index]
        if length > capacity:
            raise InputError(
                f"sample {index} has {length} tokens, a row takes {capacity}; cut it or raise the "
                "length of a row"
            )
        at = bisect_left(free, (length, 0))
        room, row = free.pop(at) if at < len(free) else (capacity, len(plan_rows))
        if row == len(plan_rows):
            plan_rows.append([])
        plan_rows[row].append(index)
        insort(free, (room - length, row))
    return plan_rows


def rows(samples: Sequence[Prompt], plan: Sequence[Sequence[int]], *, pad: int = 0) -> PackedBatch:
    """Return rows of concatenated samples.

    The first token of a sample is never in the loss: it has no context.

    Args:
        samples: the samples.
        plan: indices of the samples of each row.
        pad: id of the padding.
    """
    width = max((sum(len(samples[i].ids) for i in row) for row in plan), default=0)
    ids_BL = torch.full((len(plan), width), pad)
    labels_BL = torch.full_like(ids_BL, IGNORE)
    position_BL = torch.zeros_like(ids_BL)
    sample_BL = torch.zeros_like(ids_BL)
    real_BL = torch.zeros_like(ids_BL, dtype=torch.bool)
    for number, row in enumerate(plan):
        start = 0
        for index in row:
            sample = samples[index]
            end = start + len(sample.ids)
            ids_BL[number, start:end] = torch.tensor(sample.ids)
            for first, last in sample.trained:
                trained = slice(start + max(1, first), start + last)
                labels_BL[number, trained] = ids_BL[number, trained]
            position_BL[number, start:end] = torch.arange(end - start)
            sample_BL[number, start:] = index
            start = end
        position_BL[number, start:] = torch.arange(width - start)
        real_BL[number, :start] = True
    media = tuple(each for row in plan for index in row for each in samples[index].media)
    return PackedBatch(ids_BL, labels_BL, position_BL, sample_BL, real_BL, media=media)
