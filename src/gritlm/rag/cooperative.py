"""Long work on the model's thread that lets other work run in between. Shapes: V vocabulary."""

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

SHARING = 512  # tokens of a pass where other work may wait for the model
_MOST_S = 0.2  # seconds without a checkpoint, however long the last one took

Checkpoint = Callable[[], None]
T = TypeVar("T")


class OnModel(Protocol):
    """A function that runs work on the thread that owns the model and waits for the result."""

    def __call__(self, run: Callable[[], T]) -> T: ...


def paced(checkpoint: Checkpoint | None) -> Checkpoint | None:
    """Return a checkpoint callback that skips calls until as much time has passed as the last one
    took: the caller keeps half of the time."""
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
    """Prefill a cache, in pieces if there is a checkpoint callback; return the last logits (V,)."""
    if checkpoint is None or not is_preallocated(cache):
        return prefill(lm, cache, ids)  # other kinds of cache may need a single pass
    for start in range(0, len(ids), SHARING):
        if start:
            checkpoint()
        logits_V = prefill(lm, cache, ids[start : start + SHARING])
    return logits_V
