"""Report of skipped sources: the first 100 with reasons, and the count of all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

NAMED = 100  # as many are named; a file of millions of broken rows names no more
LONGEST = 500  # characters of a reason


@dataclass(frozen=True)
class SkippedSource:
    """Source that did not become a document.

    Attributes:
        path: file, ``file:line``, or ``sources[3]`` for a source passed as a value.
        reason: reason for skipping it.
    """

    path: str
    reason: str


class TakesSkipped(Protocol):
    """Receiver of skipped sources: a list or :class:`Skips`."""

    def append(self, skipped: SkippedSource, /) -> None: ...


@dataclass
class Skips:
    """Skipped sources, of which only the first are kept.

    Attributes:
        named: first ``NAMED`` skipped sources, with their reasons.
        count: number of all skipped sources.
    """

    named: list[SkippedSource] = field(default_factory=list)
    count: int = 0

    def append(self, skipped: SkippedSource, /) -> None:
        """Count a skipped source, and keep it if it is among the first."""
        self.count += 1
        if len(self.named) < NAMED:
            self.named.append(skipped)

    def add(self, path: str, reason: Callable[[], str]) -> None:
        """Count a skipped source; build its reason and keep both if it is among the first."""
        if len(self.named) < NAMED:
            self.append(SkippedSource(path, reason()[:LONGEST]))
        else:
            self.count += 1

    def __iter__(self) -> Iterator[SkippedSource]:
        return iter(self.named)
