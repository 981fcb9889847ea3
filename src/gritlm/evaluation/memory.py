"""Out-of-memory errors: their detection, and batches that shrink when memory runs out."""

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

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


class BatchSizeReducer:
    """Runner of batches that halves a batch which does not fit, and keeps later ones as small.

    Attributes:
        most: largest number of items in a batch.
    """

    def __init__(self) -> None:
        self.most = sys.maxsize

    def run(self, read: Callable[[Sequence[T]], list[R]], items: Sequence[T]) -> list[R]:
        """Call a function on all items, in batches that fit in memory.

        Args:
            read: function of a batch that returns one value for each item.
            items: items to process.

        Returns:
            The values, in the order of the items.

        Raises:
            RuntimeError: from torch, if a single item does not fit.
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
            free()  # outside the handler, which keeps the frames of the failed call alive
        return done


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory ran out.

    On GPUs torch raises a class of its own; elsewhere only the message of the error shows it.
    """
    message = str(error).lower()
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or any(phrase in message for phrase in _OUT_OF_MEMORY)


def free() -> None:
    """Collect garbage, and return unused GPU memory to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
