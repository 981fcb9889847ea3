"""The three halves as one kind of function, and what to do when a batch is too large."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from gritlm.errors import MissingExtraError
from gritlm.evaluation.finding import HARNESS, Hubs
from gritlm.evaluation.results import Half, TaskResult
from gritlm.evaluation.tasks import Task

log = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_BATCH = 64  # halved from here when nobody says how large a batch is


@dataclass(frozen=True)
class How:
    """How a task is measured.

    Attributes:
        limit: rows of it; None for all.
        batch_size: texts read at once; None for what the model chooses.
        requests: where answers to single requests are kept.
        progress: whether to show a bar.
    """

    limit: int | None = None
    batch_size: int | None = None
    requests: Path | None = None
    progress: bool = False


Measure = Callable[[Any, Task | str, How], Sequence[TaskResult]]


def measures() -> Mapping[Half, Measure]:
    """The real thing for every half."""
    return {"embedding": _embedding, "generation": _generation, "rag": _rag}


def hubs() -> Hubs:
    """Where names are looked up that are no local task."""
    return {"embedding": _embedding_names, "generation": _generation_names}


def require(halves: Iterable[Half]) -> None:
    """The libraries of some halves.

    Raises:
        MissingExtraError: when one is not installed.
    """
    libraries: dict[Half, str] = {"embedding": "mteb", "generation": "lm_eval"}
    for half in halves:
        if half in libraries and find_spec(libraries[half]) is None:
            raise MissingExtraError(
                f"measuring {half} needs {HARNESS[half]}, which is not installed; "
                "pip install 'gritlm[eval]'"
            )


def halving(measure: Callable[[int | None], T], batch_size: int | None) -> T:
    """``measure(batch_size)``; where the memory is too small, again with half of it.

    Raises:
        MemoryError, RuntimeError: when even one text at a time is too much.
    """
    from gritlm.evaluation import memory

    while True:
        try:
            return measure(batch_size)
        except (MemoryError, RuntimeError) as error:
            size = batch_size or 2 * FIRST_BATCH
            if not memory.is_out_of_memory(error) or size == 1:
                raise
            batch_size = size // 2
            log.warning("out of memory: going on with a batch size of %d", batch_size)
        memory.free()  # outside of the handler, which holds on to the frames of the failed try


def _embedding(model: Any, task: Task | str, how: How) -> Sequence[TaskResult]:
    from gritlm.evaluation.embedding import run

    return [
        halving(
            lambda size: run.measure(
                model, task, limit=how.limit, batch_size=size, progress=how.progress
            ),
            how.batch_size,
        )
    ]


def _generation(model: Any, task: Task | str, how: How) -> Sequence[TaskResult]:
    from gritlm.evaluation.generation import run

    return [
        run.measure(
            model, task, limit=how.limit, requests_cache=how.requests, progress=how.progress
        )
    ]


def _rag(model: Any, task: Task | str, how: How) -> Sequence[TaskResult]:
    from gritlm.evaluation.rag import run

    assert isinstance(task, Task), "question answering has local tasks only"
    return run.measure(model, task, limit=how.limit, progress=how.progress)


def _embedding_names() -> Iterable[str]:
    from gritlm.evaluation.embedding import run

    return run.names()


def _generation_names() -> Iterable[str]:
    from gritlm.evaluation.generation import run

    return run.names()
