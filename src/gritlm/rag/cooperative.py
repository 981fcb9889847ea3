"""Work on a thread that others wait for: where it lets them go on. Shapes: V vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Protocol, TypeVar

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from gritlm.lm.generator import prefill
from gritlm.lm.kv.cache import is_preallocated
from gritlm.lm.unified import UnifiedLM

SHARING = 512  # tokens that are read at once where somebody waits for the model's thread
_MOST_S = 0.2  # for which nobody is let in, however long the others took

Checkpoint = Callable[[], None]
T = TypeVar("T")


class OnModel(Protocol):
    """How a thread that does not own the model has it do something: it waits for the result."""

    def __call__(self, run: Callable[[], T]) -> T: ...


def paced(checkpoint: Checkpoint | None) -> Checkpoint | None:
    """Lets others in only when as much was done as they took the last time: half of the time is
    ours."""
    if checkpoint is None:
        return None
    ended = perf_counter()
    took = 0.0

    def maybe() -> None:
        nonlocal ended, took
        started = perf_counter()
        if started - ended >= took:
            checkpoint()
            ended = perf_counter()
            took = min(_MOST_S, ended - started)

    return maybe


@torch.inference_mode()
def read(lm: UnifiedLM, cache: Cache, ids: Sequence[int], checkpoint: Checkpoint | None) -> Tensor:
    """As :func:`gritlm.lm.generator.prefill`, in pieces where others wait -> (V,)."""
    if checkpoint is None or not is_preallocated(cache):
        return prefill(lm, cache, ids)  # other kinds may have to be read in one pass
    for start in range(0, len(ids), SHARING):
        if start:
            checkpoint()
        logits_V = prefill(lm, cache, ids[start : start + SHARING])
    return logits_V
