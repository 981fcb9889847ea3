"""Adaptation on a cluster: workers write and judge questions, this process does the rest.

Questions, the round-trip filter and the choice of hard negatives are batches of independent rows.
Each is sent to a worker, and this process writes the results into the folder of the run in their
order, so the rows are those of one process.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from gritlm.adapt.config import AdaptConfig
from gritlm.adapt.pipeline import AdaptResult
from gritlm.adapt.pipeline import adapt as adapt_here
from gritlm.adapt.run_folder import MadeRows, Work
from gritlm.errors import InputError
from gritlm.scale import cluster
from gritlm.scale.worker_pool import (
    PoolTask,
    TaskPool,
    WorkerPool,
    WorkersEnded,
    worker_resources,
)

log = logging.getLogger(__name__)


def adapt(
    config: AdaptConfig,
    *,
    workers: WorkerPool | None = None,
    address: str | None = None,
    report: Callable[[str], None] = log.info,
    progress: bool | None = None,
) -> AdaptResult:
    """Adapt a model to a collection of documents, with questions made on a cluster.

    The rows are those of :func:`gritlm.adapt.adapt`. This process reads the documents, trains the
    adapter and writes the report. The model has the same path on every machine.

    Args:
        config: settings of the run.
        workers: workers that write and judge questions; None for one on each device.
        address: address of a Ray cluster; ``auto`` for that of this machine, None for a Ray of
            this process alone.
        report: callback for lines of the log.
        progress: show progress bars; None: on a terminal.

    Raises:
        InputError: for an endpoint that writes the questions, and as ``gritlm.adapt.adapt``.
        ClusterError: for a cluster that cannot be used, or workers that end again and again.
    """
    if config.endpoint is not None:
        raise InputError(
            f"questions of the endpoint {config.endpoint[0]} are requests of one process; leave "
            "--ray out, or the endpoint"
        )
    with cluster.connected(address):
        spread = partial(_spread, workers or WorkerPool(), config.device)
        return adapt_here(config, report=report, progress=progress, spread=spread)


class RowsWorker:
    """The actor that makes rows of batches, with the model in memory.

    Args:
        threads: number of CPU threads; None on a GPU, where the number does not matter.
        work: a list with the reference to the pickled function of a batch.
    """

    def __init__(self, threads: int | None, work: list[Any]) -> None:
        import pickle

        import ray

        from gritlm.lm.threads import keep

        if threads is not None:
            keep(threads)
        self._work: Work = pickle.loads(ray.get(work[0]))

    def make(self, batch: Sequence[Any]) -> MadeRows:
        """Return the rows of a batch.

        Args:
            batch: items of a step.
        """
        return self._work(batch)


def _spread(
    workers: WorkerPool, device: str | None, work: Work, batches: Sequence[Sequence[Any]]
) -> Iterator[MadeRows]:
    """Yield the rows of each batch in order; workers exist only meanwhile."""
    import ray
    from ray import cloudpickle

    if not batches:
        return
    resources, most = worker_resources(workers, device=device)
    threads = None if "num_gpus" in resources else workers.cpus
    content = ray.put(cloudpickle.dumps(work))
    form = ray.remote(RowsWorker).options(**resources)
    pool: TaskPool[int] = TaskPool(
        lambda: form.remote(threads, [content]),
        most=min(most, len(batches)),
        doing="the work on questions",
    )
    early: dict[int, MadeRows] = {}  # made before those of an earlier batch
    following = 0
    try:
        for number, made in pool.results(
            [PoolTask(number, "", partial(_make, batch)) for number, batch in enumerate(batches)]
        ):
            if isinstance(made, WorkersEnded):
                raise cluster.ClusterError(
                    f"batch {number} of the questions failed: {made.reason}; start fewer workers, "
                    "and give the same command again"
                )
            early[number] = made
            while following in early:
                yield early.pop(following)
                following += 1
    finally:
        pool.close()


def _make(batch: Sequence[Any], worker: Any) -> Any:
    return worker.make.remote(batch)
