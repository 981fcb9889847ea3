"""Two processes on one CPU."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from torch.multiprocessing.spawn import start_processes

from gritlm.train.run import collectives

SIZE = 2
TIMEOUT_S = 20


def joined(rank: int, meeting: str, timeout_s: float = TIMEOUT_S) -> AbstractContextManager[None]:
    return collectives.group(
        timeout_s=timeout_s, init_method=f"file://{meeting}", rank=rank, size=SIZE
    )


def _do(rank: int, work: Callable[[int, str], None], folder: str) -> None:
    """Leaves at once when the work is done: threads of gloo may abort a process at its exit."""
    work(rank, folder)
    os._exit(0)


def spawn(work: Callable[[int, str], None], folder: Path) -> None:
    """Run in two processes; those that are not done in time are ended, and the test fails."""
    context = start_processes(
        _do, (work, str(folder)), nprocs=SIZE, join=False, start_method="spawn"
    )
    end = time.monotonic() + 9 * TIMEOUT_S
    try:
        while not context.join(timeout=1):
            assert time.monotonic() < end, "the processes hang"
    finally:
        for process in context.processes:
            with suppress(ProcessLookupError):
                process.kill()
