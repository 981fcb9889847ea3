"""Report of the check of a release: one line a step, with its time and size."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

MEGABYTE = 1_000_000


class ReleaseError(Exception):
    """Reason why a release is not ready, in one line."""


@dataclass(frozen=True)
class Outcome:
    """Result of a step: a text, and the size of the files that it has made, in bytes."""

    text: str
    size: int | None = None


@dataclass
class Report:
    """Printed lines of the steps, and the names of those that failed."""

    failed: list[str] = field(default_factory=list)

    def step(self, name: str, work: Callable[[], Outcome]) -> bool:
        """Run a step, print its line, and return whether it passed.

        Args:
            name: name of the step.
            work: the step; it raises :class:`ReleaseError` for a failure.
        """
        start = time.monotonic()
        try:
            outcome = work()
        except ReleaseError as error:
            self.failed.append(name)
            outcome = Outcome(f"FAILED: {error}")
        seconds = time.monotonic() - start
        size = "" if outcome.size is None else f"{outcome.size / MEGABYTE:.1f} MB"
        print(f"{name:<24} {seconds:7.1f} s {size:>11}  {outcome.text}", flush=True)
        return name not in self.failed

    def finish(self) -> int:
        """Print the verdict, and return the exit code."""
        if self.failed:
            print(f"not ready: {', '.join(self.failed)}", file=sys.stderr)
            return 1
        print("ready for release")
        return 0
