"""The three halves as one kind of function, and what to do when a batch is too large."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from gritlm.evaluation.results import Half, TaskResult
from gritlm.evaluation.tasks.discovery import Hubs
from gritlm.evaluation.tasks.task import Task

log = logging.getLogger(__name__)

T = TypeVar("T")


class BatchLimits:
    """How many texts a model reads at once; less for all of its later tasks once memory ran out.

    Attributes:
        size: None for what the model chooses.
    """

    def __init__(self, size: int | None = None) -> None:
        self.size = size

    def halving(self, measure: Callable[[int | None], T], *, default: int) -> T:
        """``measure(size)``; where the memory is too small, again with half of it.

        Args:
            default: what the model chooses.

        Raises:
            MemoryError, RuntimeError: when even one text at a time is too much.
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
                log.warning("out of memory: going on with a batch size of %d", self.size)
            memory.free()  # outside of the handler, which holds on to the frames of the failed try


@dataclass(frozen=True)
class MeasureOptions:
    """How a task is measured.

    Attributes:
        limit: rows of it; None for all.
        batch: texts read at once.
        requests: where answers to single requests are kept.
        progress: whether to show a bar.
        skip_bad: whether rows of local tasks that cannot be used are left out.
    """

    limit: int | None = None
    batch: BatchLimits = field(default_factory=BatchLimits)
    requests: Path | None = None
    progress: bool = False
    skip_bad: bool = True


Measure = Callable[[Any, Task | str, MeasureOptions], Sequence[TaskResult]]


def measures() -> Mapping[Half, Measure]:
    """The real thing for every half."""
    return {"embedding": _embedding, "generation": _generation, "rag": _rag}


def hubs() -> Hubs:
    """Where names are looked up that are no local task."""
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

    assert isinstance(task, Task), "question answering has local tasks only"
    return measure.measure(
        model, task, limit=how.limit, progress=how.progress, skip_bad_rows=how.skip_bad
    )


def _embedding_names() -> Iterable[str]:
    from gritlm.evaluation.embedding import mteb_run

    return mteb_run.names()


def _generation_names() -> Iterable[str]:
    from gritlm.evaluation.generation import lm_eval_run

    return lm_eval_run.names()
