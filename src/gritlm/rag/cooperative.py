"""Long work on the model's thread that lets other work run in between."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Protocol, TypeVar

_MOST_S = 0.2  # seconds without a checkpoint, however long the last one took

Checkpoint = Callable[[], None]
T = TypeVar("T")


class OnModel(Protocol):
    """A function that runs work on the thread that owns the model and waits for the result."""

    def __call__(self, run: Callable[[], T]) -> T: ...


def paced(checkpoint: Checkpoint) -> Checkpoint:
    """Return a checkpoint callback that skips calls until as much time has passed as the last one
    took: the caller keeps half of the time."""
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
