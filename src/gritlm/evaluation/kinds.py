"""Measuring functions of the kinds of tasks, and batch sizes that shrink on demand."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from gritlm.evaluation.results import Kind, TaskResult
from gritlm.evaluation.tasks.discovery import Hubs
from gritlm.evaluation.tasks.task import Task

log = logging.getLogger(__name__)

T = TypeVar("T")


class BatchLimits:
    """Batch size of one model; reduced for all later tasks once memory ran out.

    Attributes:
        size: texts in a batch; None for the model's default.
    """

    def __init__(self, size: int | None = None) -> None:
        self.size = size

    def halving(self, measure: Callable[[int | None], T], *, default: int) -> T:
        """Call ``measure(size)``, and again with half the size while memory runs out.

        Args:
            measure: function of the batch size; None stands for the model's default.
            default: default batch size of the model.

        Raises:
            MemoryError, RuntimeError: if a batch of one text does not fit either.
        """
        from gritlm.evaluation import memory

        while True:
            try:
                return measure(self.size)
            except (MemoryError, RuntimeError) as error:
                size = self.size or default
                if not memory.is_out_of_memory(error) or size == 1:
                    raise
                self.size = size // 2
                log.warning("out of memory: continuing with a batch size of %d", self.size)
            memory.free()  # outside the handler, which keeps the frames of the failed call alive


@dataclass(frozen=True)
class MeasureOptions:
    """Options for measuring a task.

    Attributes:
        limit: number of rows to measure on; None for all.
        batch: batch size of the model.
        requests: SQLite file that caches answers to single requests; None for no cache.
        progress: whether to show a progress bar.
        skip_bad: whether unusable rows of local tasks are left out.
    """

    limit: int | None = None
    batch: BatchLimits = field(default_factory=BatchLimits)
    requests: Path | None = None
    progress: bool = False
    skip_bad: bool = True


Measure = Callable[[Any, Task | str, MeasureOptions], Sequence[TaskResult]]


def measures() -> Mapping[Kind, Measure]:
    """Return the measuring function of every kind."""
    return {
        "embedding": _embedding,
        "generation": _generation,
        "rag": _rag,
        "senses": _senses,
    }


def hubs() -> Hubs:
    """Return, for each kind with a hub, a function that lists the names of the hub's tasks."""
    return {"embedding": _embedding_names, "generation": _generation_names}


def _embedding(model: Any, task: Task | str, how: MeasureOptions) -> Sequence[TaskResult]:
    from gritlm.evaluation.embedding import mteb_run

    return [
        how.batch.halving(
            lambda size: mteb_run.measure(
                model,
                task,
                limit=how.limit,
                batch_size=size,
                progress=how.progress,
                skip_bad_rows=how.skip_bad,
            ),
            default=mteb_run.default_batch_size(model),
        )
    ]


def _generation(model: Any, task: Task | str, how: MeasureOptions) -> Sequence[TaskResult]:
    from gritlm.evaluation.generation import lm_eval_run

    return [
        lm_eval_run.measure(
            model,
            task,
            limit=how.limit,
            requests_cache=how.requests,
            progress=how.progress,
            skip_bad_rows=how.skip_bad,
        )
    ]


def _rag(model: Any, task: Task | str, how: MeasureOptions) -> Sequence[TaskResult]:
    from gritlm.evaluation.rag import measure

    assert isinstance(task, Task), "rag tasks are always local"
    return measure.measure(
        model, task, limit=how.limit, progress=how.progress, skip_bad_rows=how.skip_bad
    )


def _senses(model: Any, task: Task | str, how: MeasureOptions) -> Sequence[TaskResult]:
    from gritlm.evaluation.senses import measure

    assert isinstance(task, Task), "tasks with images and sound are always local"
    return how.batch.halving(
        lambda size: measure.measure(
            model,
            task,
            limit=how.limit,
            batch_size=size,
            progress=how.progress,
            skip_bad_rows=how.skip_bad,
        ),
        default=measure.BATCH,
    )


def _embedding_names() -> Iterable[str]:
    from gritlm.evaluation.embedding import mteb_run

    return mteb_run.names()


def _generation_names() -> Iterable[str]:
    from gritlm.evaluation.generation import lm_eval_run

    return lm_eval_run.names()
