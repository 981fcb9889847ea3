"""Number of CPU threads of a forward pass: the cores that other processes leave free.

The threads of OpenMP wait for each other in busy loops. With more threads than free cores, each
matrix product waits until the system runs the last thread: one busy process on two cores made
encoding a hundred times slower (docs/log.md).

A number that the user has set is kept: by the environment (:data:`VARIABLES`), by
``torch.set_num_threads`` with another number than the default, or by :func:`keep`.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

log = logging.getLogger(__name__)

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
INTERVAL = 0.25  # seconds between two readings; the system counts in steps of 10 ms
FIRST = 0.1  # seconds between the first two, of which the second comes before the first product
CALM = 4  # successive readings with more free cores before the number is raised
# A core that other processes use for less than this share still counts as free.
SHARE = 0.25


@dataclass(frozen=True)
class CpuTimes:
    """Processor times in seconds.

    Attributes:
        wall: time of the reading.
        idle: idle time of the cores that this process may use, summed.
        total: time of all kinds of these cores, summed.
        own: CPU time of this process.
    """

    wall: float
    idle: float
    total: float
    own: float


def read_cpu_times() -> CpuTimes | None:
    """Return the present processor times; None if the system does not report them."""
    try:
        import psutil  # missing where only the GPU is used

        cores = psutil.cpu_times(percpu=True)
    except (ImportError, OSError, RuntimeError, NotImplementedError):
        return None
    usable = _affinity()
    if usable is not None and max(usable) < len(cores):
        cores = [cores[number] for number in usable]
    idle = sum(core.idle + getattr(core, "iowait", 0.0) for core in cores)
    guest = sum(getattr(core, "guest", 0.0) + getattr(core, "guest_nice", 0.0) for core in cores)
    # The times of guests are part of the others.
    total = sum(sum(core) for core in cores) - guest
    return CpuTimes(time.monotonic(), idle, total, time.process_time())


def free_cores(before: CpuTimes, after: CpuTimes) -> float | None:
    """Return the number of cores that other processes left free between two readings.

    Returns:
        The cores that were idle or used by this process; None for readings that do not agree with
        the clock, such as those of some sandboxes.
    """
    seconds = after.wall - before.wall
    cores = (after.total - before.total) / seconds if seconds > 0 else 0.0
    if round(cores) < 1:
        return None
    return (after.idle - before.idle + after.own - before.own) / seconds


def quota(root: Path = Path("/")) -> float | None:
    """Return the cores that the control groups of this process may use; None without a limit.

    Args:
        root: folder of ``proc`` and ``sys``.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("cpu" if controllers else "")  # versions 1 and 2
        folder = top / group.lstrip("/")
        # In a container the path may be that of the host: the limit is then at the top.
        found += [_limit(each) for each in (folder, *folder.parents) if each.is_relative_to(top)]
    return min((limit for limit in found if limit is not None), default=None)


def _limit(folder: Path) -> float | None:
    """Return the limit of one control group in cores; None without one."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            texts = [(folder / name).read_text(encoding="utf-8") for name in names]
            allowed, period = map(int, " ".join(texts).split())  # "max" is no limit
            return allowed / period if allowed > 0 else None
        except (OSError, ValueError, ZeroDivisionError):
            continue
    return None


def _affinity() -> list[int] | None:
    getter = getattr(os, "sched_getaffinity", None)  # on Linux only
    return None if getter is None else sorted(getter(0))


class ThreadNumber:
    """The number of threads of torch, adjusted to the free cores.

    It is lowered after one reading with fewer free cores, and raised after :data:`CALM` of them.
    It never exceeds the number that torch had at first. Each thread of Python has its own number
    in torch, so :meth:`adjust` is called by the thread that computes.

    Args:
        read: function that returns the processor times.
        limit: number of cores that this process may use at most; None for all.
        fixed: whether the number is never changed.
    """

    def __init__(
        self,
        read: Callable[[], CpuTimes | None] = read_cpu_times,
        *,
        limit: float | None = None,
        fixed: bool = False,
    ) -> None:
        self._read = read
        self._limit = math.inf if limit is None else limit
        self._lock = threading.Lock()
        self._here = threading.local()  # number: that of the thread
        self.most = torch.get_num_threads()
        self._fixed = fixed or self.most not in _defaults()
        self._number = self.most
        self._ours = {self.most}
        self._calm = 0
        self._due = 0.0
        self._times: CpuTimes | None = None

    def adjust(self) -> None:
        """Adjust the number of threads; cheap enough for every layer of a pass."""
        if self._fixed:
            return
        if time.monotonic() >= self._due:
            with self._lock:
                self._look()
        if getattr(self._here, "number", self.most) != self._number:
            self._set()

    def keep(self, number: int) -> None:
        """Set the number of threads, and leave it from now on.

        Args:
            number: number of threads.
        """
        self._fixed = True
        self.most = number
        torch.set_num_threads(number)

    def _look(self) -> None:
        """Compare the processor times with those of the last reading."""
        before, self._times = self._times, self._read()
        self._due = time.monotonic() + (FIRST if before is None else INTERVAL)
        if before is None or self._times is None:
            free = self._limit
        else:
            found = free_cores(before, self._times)
            free = self._limit if found is None else min(found, self._limit)
        fitting = int(max(1, min(self.most, free + SHARE)))
        self._calm = self._calm + 1 if fitting > self._number else 0
        if fitting < self._number or self._calm >= CALM:
            self._report(fitting, free)
            self._calm = 0
            self._ours.add(fitting)
            self._number = fitting

    def _report(self, fitting: int, free: float) -> None:
        """Log a change of the number; only the first one is for the user."""
        log.log(
            logging.INFO if len(self._ours) == 1 else logging.DEBUG,
            "%d threads instead of %d: other processes leave %.1f cores free; set %s or --threads "
            "for a fixed number",
            fitting,
            self._number,
            free,
            VARIABLES[0],
        )

    def _set(self) -> None:
        """Set the number of this thread, unless the user has set another one."""
        if torch.get_num_threads() not in self._known():
            self._fixed = True
            return
        torch.set_num_threads(self._number)
        self._here.number = self._number

    def _known(self) -> set[int]:
        """Return the numbers that this thread can have if the user has not set another one."""
        known = getattr(self._here, "number", None)
        return self._ours if known is None else {known}


def _defaults() -> set[int]:
    """Return the numbers that torch takes by itself: of all or all usable cores, whole or halved.

    Half of them are the physical cores of a machine with two threads a core.
    """
    counts = [os.cpu_count() or 1, len(_affinity() or [])]
    return {size for count in counts for size in (count, (count + 1) // 2) if size}


_shared: list[ThreadNumber] = []


def shared() -> ThreadNumber:
    """Return the number of threads of this process, which is made at the first call."""
    if not _shared:
        fixed = any(os.environ.get(name) for name in VARIABLES)
        _shared.append(ThreadNumber(limit=quota(), fixed=fixed))
    return _shared[0]


def adjust() -> None:
    """Adjust the number of threads of this process; see :meth:`ThreadNumber.adjust`."""
    shared().adjust()


def most() -> int:
    """Return the number of threads on a machine without other work."""
    return shared().most


def keep(number: int) -> None:
    """Set the number of threads of this process, and leave it from now on.

    Args:
        number: number of threads.
    """
    shared().keep(number)
