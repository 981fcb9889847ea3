"""Rows of the GPU benchmark: checks, figures, skipped and failed ones."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal["check", "figure", "skipped", "failed"]
LAST_LINES = 30  # of a traceback


class SkippedError(Exception):
    """A requirement of a check is missing here; the message is the reason."""


@dataclass(frozen=True)
class Row:
    """A line of the report.

    Attributes:
        part: name of the part.
        kind: ``check`` holds, ``figure`` is a number, ``skipped`` was not run, ``failed`` does not
            hold or raised.
        name: name of the check or of the figure.
        value: the number of a figure; None for other kinds.
        unit: unit of the number.
        note: detail, reason, or traceback.
        seconds: time it took.
    """

    part: str
    kind: Kind
    name: str
    value: float | None = None
    unit: str = ""
    note: str = ""
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Report:
    """Collector of the rows of one part; every row is sent on as soon as it is known.

    Args:
        part: name of the part.
        send: takes each row.
    """

    def __init__(self, part: str, send: Callable[[Row], None]) -> None:
        self.part = part
        self._send = send

    def figure(self, name: str, value: float, unit: str, note: str = "") -> None:
        """Add a number."""
        self._send(Row(self.part, "figure", name, value, unit, note))

    def attempt(self, name: str, run: Callable[[], str | None]) -> bool:
        """Run one check on its own; return whether it held.

        An error is a row too, and the part goes on.

        Args:
            name: name of the check.
            run: raises AssertionError where the check does not hold, :class:`SkippedError` where it
                cannot be run here; returns a note or None.
        """
        start = time.perf_counter()
        kind: Kind = "check"
        note: str | None
        try:
            note = run()
        except SkippedError as error:
            kind, note = "skipped", str(error)
        except Exception:
            kind, note = "failed", last_lines(traceback.format_exc())
        seconds = time.perf_counter() - start
        self._send(Row(self.part, kind, name, note=note or "", seconds=seconds))
        return kind == "check"


def require(holds: bool, message: str) -> str:
    """Return the message as a note where a check holds.

    Raises:
        AssertionError: with the message, where it does not.
    """
    if not holds:
        raise AssertionError(message)
    return message


def last_lines(text: str) -> str:
    """Return the last lines of a traceback."""
    return "\n".join(text.strip().splitlines()[-LAST_LINES:])
