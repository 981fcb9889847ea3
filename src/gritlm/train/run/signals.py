"""Ctrl-C and SIGTERM end a run after the step at hand, so that it can be saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopSignal:
    """Whether the run was asked to end."""

    def __init__(self) -> None:
        self.asked = False

    def ask(self, number: int, _frame: FrameType | None) -> None:
        """A signal handler; the second ctrl-C ends the program at once."""
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def listening() -> Iterator[StopSignal]:
    """Signals are noted inside of the block, and do afterwards what they did before."""
    stop = StopSignal()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may change what signals do
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, stop.ask) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
