"""Workers of a job: their number and devices, and a pool that hands them independent tasks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from gritlm.errors import InputError
from gritlm.scale import cluster

log = logging.getLogger(__name__)

T = TypeVar("T")

ATTEMPTS = 3  # workers that may end during a task, before it is given up
DEVICE_SHARE = 0.9  # of a CPU for a worker that computes, so that helpers have the rest


@dataclass(frozen=True)
class WorkerPool:
    """Workers that compute.

    Attributes:
        least: fewest workers; None for the most.
        most: most workers, which start while there is work that waits; None for one a device.
        cpus: CPUs, and threads, of a worker on a cluster without GPUs.
    """

    least: int | None = None
    most: int | None = None
    cpus: int = 1

    def __post_init__(self) -> None:
        least = 1 if self.least is None else self.least
        most = least if self.most is None else self.most
        if least < 1 or most < least or self.cpus < 1:
            raise InputError(
                f"{self.least} to {self.most} workers with {self.cpus} CPUs each; expected at "
                "least 1 worker and 1 CPU, and no fewer at most than at least"
            )


def worker_resources(pool: WorkerPool, *, device: str | None = None) -> tuple[dict[str, Any], int]:
    """Return the resources of a worker, and the most workers of the connected cluster.

    Args:
        pool: workers that compute.
        device: device of the model; ``cpu`` leaves GPUs out.

    Raises:
        InputError: for more workers at least than the cluster has room for.
    """
    found = cluster.devices()
    if device == "cpu":
        found = replace(found, gpus=0)
    room = found.gpus or max(1, found.cpus // pool.cpus)
    if (pool.least or 1) > room:
        raise InputError(f"{pool.least} workers, the cluster has room for {room}; ask for fewer")
    most = pool.most or pool.least or room
    if found.gpus:
        return {"num_gpus": 1.0, "num_cpus": 1.0}, most
    return {"num_cpus": pool.cpus * DEVICE_SHARE}, most


@dataclass(frozen=True, eq=False)
class PoolTask(Generic[T]):
    """A task.

    Attributes:
        item: identity of the task for the caller.
        group: tasks of a group go to the same worker where possible, as it has loaded their model.
        call: calls a method of a worker, and returns the reference to its result.
    """

    item: T
    group: str
    call: Callable[[Any], Any]


@dataclass(frozen=True)
class WorkersEnded:
    """Outcome of a task during which too many workers have ended.

    Attributes:
        count: number of these workers.
    """

    count: int

    @property
    def reason(self) -> str:
        """The reason for a message."""
        return f"its worker ended {self.count} times, for example because memory ran out"


class TaskPool(Generic[T]):
    """Workers that run tasks, one each at a time.

    Args:
        start: starts a worker, an actor of Ray.
        most: most workers.
        doing: the work, for messages.
    """

    def __init__(self, start: Callable[[], Any], *, most: int, doing: str) -> None:
        self._start = start
        self._most = most
        self._doing = doing
        self._groups: dict[Any, str] = {}  # worker -> group of its last task
        self._idle: list[Any] = []
        self._running: dict[Any, tuple[Any, PoolTask[T]]] = {}
        self._ended: dict[int, int] = {}  # task -> workers that have ended during it

    def results(
        self, tasks: Sequence[PoolTask[T]], begin: Callable[[T], None] | None = None
    ) -> Iterator[tuple[T, Any]]:
        """Yield item and result of each task, or :class:`WorkersEnded`, as they finish.

        Args:
            tasks: the tasks.
            begin: called with the item of each task that is handed to a worker.

        Raises:
            GritLMError: the error of a worker, in one line.
        """
        import ray

        waiting = list(tasks)
        while waiting or self._running:
            self._hand_out(waiting, begin)
            ready, _ = ray.wait(list(self._running))
            for found in ready:
                worker, task = self._running.pop(found)
                result = self._result(found, worker, task)
                if isinstance(result, WorkersEnded) and result.count < ATTEMPTS:
                    waiting.insert(0, task)
                else:
                    yield task.item, result

    def close(self) -> None:
        """End all workers."""
        import ray

        for worker in self._groups:
            ray.kill(worker)
        self._groups.clear()
        self._idle.clear()
        self._running.clear()

    def worker(self) -> Any:
        """Return a worker that is not busy, which stays in the pool."""
        if not self._idle:
            self._idle.append(self._started())
        return self._idle[-1]

    def _started(self) -> Any:
        worker = self._start()
        self._groups[worker] = ""
        return worker

    def _hand_out(self, waiting: list[PoolTask[T]], begin: Callable[[T], None] | None) -> None:
        """Give a task to each worker without one, and remove it from the list."""
        while waiting and (self._idle or len(self._groups) < self._most):
            worker = self._idle.pop() if self._idle else self._started()
            group = self._groups[worker]
            task = next((each for each in waiting if each.group == group), waiting[0])
            waiting.remove(task)
            self._groups[worker] = task.group
            if begin is not None:
                begin(task.item)
            self._running[task.call(worker)] = (worker, task)

    def _result(self, found: Any, worker: Any, task: PoolTask[T]) -> Any:
        """Return the result of a task, or how many workers have ended during it."""
        import ray

        try:
            result = ray.get(found)
        except ray.exceptions.RayActorError as error:
            del self._groups[worker]
            ended = self._ended[id(task)] = self._ended.get(id(task), 0) + 1
            log.debug("%s: a worker has ended", self._doing, exc_info=error)
            return WorkersEnded(ended)
        except Exception as error:
            raise cluster.explain(error, self._doing) from None
        self._idle.append(worker)
        return result
