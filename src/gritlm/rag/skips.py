"""Things that did not become documents: the first ones by name, all of them counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

NAMED = 100  # as many are named; a file of millions of broken rows names no more
LONGEST = 500  # characters of a reason


@dataclass(frozen=True)
class Skipped:
    """Something that did not become a document.

    Attributes:
        path: file, ``file:line``, or ``sources[3]`` for what was handed in as a value.
    """

    path: str
    reason: str


class TakesSkipped(Protocol):
    """A list, or :class:`Skips`."""

    def append(self, skipped: Skipped, /) -> None: ...


@dataclass
class Skips:
    """What was skipped.

    Attributes:
        named: the first ``NAMED`` of them, with their reasons.
        count: of all.
    """

    named: list[Skipped] = field(default_factory=list)
    count: int = 0

    def append(self, skipped: Skipped, /) -> None:
        """Count one; name it while there is room."""
        self.count += 1
        if len(self.named) < NAMED:
            self.named.append(skipped)

    def add(self, path: str, reason: Callable[[], str]) -> None:
        """Count one; make its reason and name it while there is room."""
        if len(self.named) < NAMED:
            self.append(Skipped(path, reason()[:LONGEST]))
        else:
            self.count += 1

    def __iter__(self) -> Iterator[Skipped]:
        return iter(self.named)
