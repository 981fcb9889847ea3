"""Passes of a model that compiled steps compute.

Shapes: B rows, Q tokens of a pass, S positions that are kept, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from gritlm.lm.attention.ragged import RaggedRun
from gritlm.lm.compiled.steps import CompiledStep
from gritlm.lm.kv.cache import is_preallocated


def step_logits(
    step: CompiledStep,
    ids_BQ: Tensor,
    cache: Any,
    places: tuple[Tensor, int, Sequence[RaggedRun] | None],
    keep: int,
) -> Tensor | None:
    """Return the logits (B, S, V) of a compiled step; None for a pass that it does not take.

    Args:
        step: the compiled steps.
        ids_BQ: token ids.
        cache: cache, extended in place; None for none.
        places: positions (B, Q), number of cached tokens, and groups of sequences in KV slots.
        keep: number of last positions with logits.
    """
    rows, size = ids_BQ.shape
    position_BQ, held, runs = places
    if cache is None or rows * size > step.rows:
        return None
    layers = cache.layers
    if runs is not None:
        slots = [slot for run in runs for slot in range(run.slots.start, run.slots.stop)]
        held_B = position_BQ[:, 0].tolist()
        return step.logits(ids_BQ[:, 0], position_BQ[:, 0], layers, slots, held_B, keep=rows)[
            :, None
        ]
    if rows > 1 or not held or not is_preallocated(cache):
        return None
    for layer in layers:
        if held + size > layer.capacity:
            layer.grow(held + size)
    places_Q = list(range(held, held + size))
    logits = step.logits(ids_BQ[0], position_BQ[0], layers, [0] * size, places_Q, keep=keep)
    for layer in layers:
        layer.length = held + size
    return logits[None]
