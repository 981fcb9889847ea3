"""Measurements of a row of the table: sides that take turns, their rates and ratios."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

CLOCKS = ("wall", "cpu")


class SideError(Exception):
    """A side cannot be measured; the text is the reason, in one line."""


@dataclass(frozen=True)
class Setting:
    """Settings of a run.

    Attributes:
        model: name or folder of the model; None for the default model.
        threads: number of threads of every side.
        quick: whether sizes and repetitions are the least ones.
    """

    model: str | None
    threads: int
    quick: bool

    @property
    def repeats(self) -> int:
        return 1 if self.quick else 3


@dataclass(frozen=True)
class Taken:
    """Wall time and CPU time of some work in seconds, and the amount of the work."""

    wall: float
    cpu: float
    amount: float

    def rate(self, clock: str) -> float:
        """Return the amount per second."""
        return self.amount / max(getattr(self, clock), 1e-9)


@dataclass(frozen=True)
class Compared:
    """A ratio of the table: the rate of a side over that of another.

    Attributes:
        label: name of the ratio in the table.
        side: the side that should be fast.
        over: the side it is compared with.
        wanted: least ratio that is wanted.
    """

    label: str
    side: str
    over: str
    wanted: float


@dataclass
class Row:
    """A row of the table.

    Attributes:
        title: name of the row.
        unit: unit of the rates.
        compared: the ratios.
        taken: measurements of each side.
        missing: reason of each side that could not be measured.
        failed: whether a side was to be measured and failed.
        notes: further facts.
    """

    title: str
    unit: str
    compared: Sequence[Compared]
    taken: dict[str, list[Taken]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    failed: bool = False
    notes: list[str] = field(default_factory=list)

    def fail(self, sides: Iterable[str], reason: object) -> None:
        """Note that sides were to be measured and failed."""
        for side in sides:
            print(f"{self.title}, {side}: {reason}", file=sys.stderr, flush=True)
            self.missing[side] = str(reason)
        self.failed = True

    def as_json(self) -> dict[str, Any]:
        """Return rates and ratios of both clocks."""
        rates = {
            side: {clock: [round(each.rate(clock), 3) for each in taken] for clock in CLOCKS}
            for side, taken in self.taken.items()
        }
        ratios = [self._ratio(each, rates) for each in self.compared]
        return {
            "title": self.title,
            "unit": self.unit,
            "rates": rates,
            "ratios": ratios,
            "missing": self.missing,
            "notes": self.notes,
        }

    def _ratio(
        self, each: Compared, rates: Mapping[str, Mapping[str, Sequence[float]]]
    ) -> dict[str, Any]:
        found = {"label": each.label, "side": each.side, "over": each.over, "wanted": each.wanted}
        if each.side not in rates or each.over not in rates:
            return found
        for clock in CLOCKS:
            both = [median(rates[name][clock]) for name in (each.side, each.over)]
            found[clock] = round(both[0] / both[1], 3)
        return found


def timed(run: Callable[[], object], amount: float) -> Taken:
    """Return the time of a call in this process."""
    cpu = time.process_time()
    wall = time.perf_counter()
    run()
    return Taken(time.perf_counter() - wall, time.process_time() - cpu, amount)


def less(whole: Taken, part: Taken) -> Taken:
    """Return the time of some work without that of its first part."""
    return Taken(
        whole.wall - part.wall, whole.cpu - part.cpu, max(whole.amount - part.amount, 1e-9)
    )


def alternate(
    sides: Mapping[str, Callable[[], Taken]],
    repeats: int,
    *,
    warmups: int = 1,
    fail: Callable[[Sequence[str], SideError], None] | None = None,
) -> dict[str, list[Taken]]:
    """Return the measurements of each side, which take turns after the warmups.

    Args:
        sides: function of each side that measures once.
        repeats: number of measurements of a side.
        warmups: number of turns before.
        fail: callback for a side that fails, which takes part no more; None to raise the error.

    Raises:
        SideError: for a side that fails, without the callback.
    """
    taken: dict[str, list[Taken]] = {name: [] for name in sides}
    for turn in range(warmups + repeats):
        for name in list(taken):
            try:
                found = sides[name]()
            except SideError as error:
                if fail is None:
                    raise
                fail([name], error)
                del taken[name]
                continue
            if turn >= warmups:
                taken[name].append(found)
    return taken
