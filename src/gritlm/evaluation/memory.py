"""Batches that shrink when memory runs out."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

_SAYS = ("out of memory", "can't allocate memory", "not enough memory")


class BatchSizeReducer:
    """Runs batches; one that does not fit is halved, and no later one is larger than that.

    Attributes:
        most: how many items a batch may have.
    """

    def __init__(self) -> None:
        self.most = sys.maxsize

    def run(self, read: Callable[[Sequence[T]], list[R]], items: Sequence[T]) -> list[R]:
        """What ``read`` gives for each item, in their order.

        Raises:
            RuntimeError: from torch, when a single item does not fit.
        """
        done: list[R] = []
        while len(done) < len(items):
            batch = items[len(done) : len(done) + self.most]
            try:
                done += read(batch)
                continue
            except RuntimeError as error:
                if len(batch) == 1 or not is_out_of_memory(error):
                    raise
            self.most = len(batch) // 2
            log.warning("out of memory with %d rows in a batch; now %d", len(batch), self.most)
            free()  # here the frames of the failed call are gone
        return done


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was the trouble; torch says so by a class on GPUs and in words elsewhere."""
    words = str(error).lower()
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or any(said in words for said in _SAYS)


def free() -> None:
    """Give back what is no longer referred to."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
