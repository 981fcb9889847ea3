"""Evaluation on a cluster: tasks spread over workers, with one cache and one report.

This process knows the results of earlier runs, hands tasks to workers, and keeps each result as
soon as it arrives. A worker holds one model and measures its tasks one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from gritlm.evaluation import kinds
from gritlm.evaluation.cache import CacheKey, ResultCache
from gritlm.evaluation.models import EvaluatedModel
from gritlm.evaluation.outcome import Report
from gritlm.evaluation.results import Kind
from gritlm.evaluation.run import Step, Watch, make_report, require_readers, task_digests
from gritlm.evaluation.runner import MeasuredTask, RunnerOptions, TaskRunner, number_format
from gritlm.evaluation.tasks.discovery import ChosenTask
from gritlm.evaluation.tasks.suites import SuitePlan
from gritlm.evaluation.tasks.task import Task
from gritlm.scale import cluster
from gritlm.scale.worker_pool import (
    PoolTask,
    TaskPool,
    WorkerPool,
    WorkersEnded,
    worker_resources,
)


def evaluate(
    models: Sequence[EvaluatedModel],
    plan: SuitePlan,
    *,
    cache: ResultCache,
    options: RunnerOptions | None = None,
    workers: WorkerPool | None = None,
    address: str | None = None,
    watch: Watch | None = None,
) -> Report:
    """Measure every task of a plan on every model, on the devices of a cluster.

    The report is the one of :func:`gritlm.evaluation.evaluate`. A task whose worker ends is
    measured again on another one. Models and local tasks have the same paths on every machine.

    Args:
        models: models to measure.
        plan: tasks to measure.
        cache: results of earlier runs, which this process reads and writes.
        options: device, number format and batch size of the models.
        workers: workers that measure; None for one on each device.
        address: address of a Ray cluster; ``auto`` for that of this machine, None for a Ray of
            this process alone.
        watch: function called before and after each task.

    Raises:
        MissingExtraError: without Ray, or without a library that a task needs.
        ModelError: if a model cannot be loaded.
        BadRowError: for the first unusable row of a local task, with ``skip_bad=False``.
        ClusterError: for a cluster that cannot be used.
        InputError: if the plan names a task with images or sound that none of the models reads.
    """
    require_readers(models, plan)
    options = replace(options or RunnerOptions(), limit=plan.limit, progress=False)
    digests = task_digests(plan)
    total = len(models) * len(plan.tasks)
    items = [
        _Item(position, evaluated, chosen, digests[chosen.name], number, total)
        for number, (position, evaluated, chosen) in enumerate(
            (
                (position, evaluated, chosen)
                for position, evaluated in enumerate(models)
                for chosen in plan.tasks
            ),
            start=1,
        )
    ]
    with cluster.connected(address):
        spread = _Spread(options, workers or WorkerPool(), cache, watch)
        try:
            finished, stopped = spread.measure(items)
            formats = spread.formats(models)
        finally:
            spread.close()
    by_name: list[dict[str, MeasuredTask]] = [{} for _ in models]
    for item, done in finished:
        by_name[item.position][item.chosen.name] = done
    return make_report(models, plan, by_name, formats=formats, stopped=stopped)


@dataclass(frozen=True)
class _Item:
    """A task on a model.

    Attributes:
        position: number of the model, from 0.
        evaluated: the model.
        chosen: the task.
        digest: digest of the task.
        number: number of this task, counted over all models from 1.
        total: number of tasks on all models.
    """

    position: int
    evaluated: EvaluatedModel
    chosen: ChosenTask
    digest: str
    number: int
    total: int

    def step(self, done: MeasuredTask | None = None) -> Step:
        """Return the progress before or after the task."""
        return Step(self.number, self.total, self.evaluated.name, self.chosen.name, done)

    def call(self, worker: Any) -> Any:
        """Let a worker measure the task, and return the reference to the result."""
        sent = (_anywhere(self.evaluated), _task_anywhere(self.chosen), self.digest)
        return worker.measure.remote(*sent)


class EvaluationWorker:
    """The actor that measures tasks, with one model in memory.

    Args:
        options: options for running models.
        threads: number of CPU threads; None on a GPU, where the number does not matter.
    """

    def __init__(self, options: RunnerOptions, threads: int | None) -> None:
        from gritlm.lm.threads import keep

        if threads is not None:
            keep(threads)
        self._options = options
        self._stack = ExitStack()
        self._runner: TaskRunner | None = None
        self._name = ""

    def keys(
        self, evaluated: EvaluatedModel, tasks: Sequence[tuple[Kind, str]]
    ) -> tuple[list[CacheKey], str]:
        """Return the keys of results on this device, and the number format of the model.

        Args:
            evaluated: the model, which is not loaded.
            tasks: kind and digest of each task.
        """
        runner = self._make_runner(evaluated)
        keys = [runner.key(kind, digest) for kind, digest in tasks]
        return keys, number_format(evaluated, self._options)

    def measure(self, evaluated: EvaluatedModel, chosen: ChosenTask, digest: str) -> MeasuredTask:
        """Measure a task.

        Args:
            evaluated: the model, which stays in memory until a task of another one.
            chosen: the task.
            digest: digest of the task.
        """
        if self._runner is None or self._name != evaluated.name:
            self._stack.close()
            self._runner = self._stack.enter_context(self._make_runner(evaluated))
            self._name = evaluated.name
        return self._runner.measure(chosen, digest)

    def _make_runner(self, evaluated: EvaluatedModel) -> TaskRunner:
        return TaskRunner(
            evaluated, options=self._options, cache=ResultCache(None), measures=kinds.measures()
        )


class _Spread:
    """Hands tasks to workers and collects their results.

    Args:
        options: options for running models.
        workers: workers that measure.
        cache: results of earlier runs.
        watch: function called before and after each task.
    """

    def __init__(
        self, options: RunnerOptions, workers: WorkerPool, cache: ResultCache, watch: Watch | None
    ) -> None:
        import ray

        resources, most = worker_resources(workers, device=options.device)
        threads = None if "num_gpus" in resources else workers.cpus
        form = ray.remote(EvaluationWorker).options(**resources)
        self._pool: TaskPool[_Item] = TaskPool(
            lambda: form.remote(options, threads), most=most, doing="evaluation"
        )
        self._cache = cache
        self._watch = watch
        self._keys: dict[int, CacheKey] = {}
        self._done: list[tuple[_Item, MeasuredTask]] = []

    def measure(self, items: Sequence[_Item]) -> tuple[list[tuple[_Item, MeasuredTask]], bool]:
        """Return the measured tasks, and whether ctrl-C ended the run before the last one.

        Args:
            items: tasks to measure.
        """
        try:
            tasks = [PoolTask(each, each.evaluated.name, each.call) for each in self._new(items)]
            for item, done in self._pool.results(tasks, lambda item: self._notify(item.step())):
                ended = isinstance(done, WorkersEnded)
                found = MeasuredTask(item.chosen, reason=done.reason) if ended else done
                self._finish(item, replace(found, chosen=item.chosen))
        except KeyboardInterrupt:
            return self._done, True
        return self._done, False

    def formats(self, models: Sequence[EvaluatedModel]) -> list[str]:
        """Return the number format of each model on the device of a worker.

        Args:
            models: the models.
        """
        worker = self._pool.worker()
        return [_get(worker.keys.remote(_anywhere(each), []))[1] for each in models]

    def close(self) -> None:
        """End all workers."""
        self._pool.close()

    def _new(self, items: Sequence[_Item]) -> list[_Item]:
        """Return the tasks whose results are not in the cache, and note those that are."""
        worker = self._pool.worker()
        waiting = []
        for item in items:
            wanted = [(item.chosen.kind, item.digest)]
            keys, _ = _get(worker.keys.remote(_anywhere(item.evaluated), wanted))
            self._keys[item.number] = keys[0]
            if known := self._cache.find(keys[0]):
                self._notify(item.step())
                self._finish(item, MeasuredTask(item.chosen, tuple(known), cached=True))
            else:
                waiting.append(item)
        return waiting

    def _finish(self, item: _Item, done: MeasuredTask) -> None:
        if done.results and not done.cached:
            self._cache.keep(self._keys[item.number], done.results)
        self._done.append((item, done))
        self._notify(item.step(done))

    def _notify(self, step: Step) -> None:
        if self._watch is not None:
            self._watch(step)


def _get(found: Any) -> Any:
    """Return a result of a worker, or raise its error in one line."""
    import ray

    try:
        return ray.get(found)
    except Exception as error:
        raise cluster.explain(error, "evaluation") from None


def _anywhere(evaluated: EvaluatedModel) -> EvaluatedModel:
    """Return a model with the whole paths of its folders, for another process."""
    adapter = None if evaluated.adapter is None else evaluated.adapter.resolve()
    return replace(evaluated, source=evaluated.source.resolve(), adapter=adapter)


def _task_anywhere(chosen: ChosenTask) -> ChosenTask:
    if not isinstance(chosen.task, Task):
        return chosen
    return replace(chosen, task=replace(chosen.task, folder=chosen.task.folder.resolve()))
