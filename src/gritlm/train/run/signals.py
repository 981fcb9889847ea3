"""Signal handling: ctrl-C and SIGTERM end a run after the current step, with a checkpoint."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopSignal:
    """State of a run that SIGINT or SIGTERM may stop.

    Attributes:
        asked: whether a signal has arrived.
    """

    def __init__(self) -> None:
        self.asked = False

    def ask(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal; a second ctrl-C ends the program immediately."""
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def listening(stop: StopSignal | None = None) -> Iterator[StopSignal]:
    """Catch SIGINT and SIGTERM inside the block; restore the earlier handlers afterwards.

    Args:
        stop: state that something else may set too; None for a new one.
    """
    stop = stop or StopSignal()
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
