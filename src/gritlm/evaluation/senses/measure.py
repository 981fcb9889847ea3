"""Measuring of tasks with images and sound."""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter

from gritlm import __version__
from gritlm.errors import InputError, at_least_one, choice
from gritlm.evaluation import inputs
from gritlm.evaluation.results import TaskResult
from gritlm.evaluation.senses import media_rows
from gritlm.evaluation.senses.picture_questions import measure_questions
from gritlm.evaluation.senses.search import measure_search
from gritlm.evaluation.tasks import layouts
from gritlm.evaluation.tasks.bad_rows import BadRows
from gritlm.evaluation.tasks.task import Task
from gritlm.lm.gritlm import GritLM

BATCH = 64  # inputs to embed in a batch; GritLM bounds it further, by its number of tokens


def measure(
    model: GritLM,
    task: Task,
    *,
    limit: int | None = None,
    batch_size: int | None = None,
    progress: bool = False,
    skip_bad_rows: bool = True,
) -> list[TaskResult]:
    """Measure a model on a local task of type ImageText, AudioText or ImageQA.

    Args:
        model: model that reads the images or sounds of the task.
        task: the task.
        limit: number of rows; None for all.
        batch_size: number of inputs to embed in a batch; None for 64.
        progress: whether to show a progress bar.
        skip_bad_rows: leave out unusable rows; the results hold their number and the reasons.

    Returns:
        The results of both directions of search, or the result of the questions.

    Raises:
        InputError: for a model that does not read the task; if more than half of the rows are
            unusable; for the first unusable row if ``skip_bad_rows`` is False.
        ModeError: for a model loaded without the part that the task needs.
        ModelError: for vectors that are not finite.
    """
    choice(task.type, layouts.SENSES, name=f"{task.folder}: type")
    if why := inputs.unread(inputs.of_type(task.type), frozenset(model.reads)):
        raise InputError(f"{task.name} is not measured: {why}")
    first = None if limit is None else at_least_one(limit, name="limit")
    size = at_least_one(batch_size or BATCH, name="batch_size")
    started = perf_counter()
    bad = BadRows(skip=skip_bad_rows)
    rows = media_rows.read(task, limit=first, bad=bad, rules=model.media_rules)
    if task.type == "ImageQA":
        results = [measure_questions(model, task, rows, progress=progress)]
    else:
        results = measure_search(model, task, rows, batch_size=size, progress=progress)
    seconds = (perf_counter() - started) / len(results)
    return [
        replace(
            result.without_rows(bad.count, bad.reasons),
            seconds=seconds,
            harness=f"gritlm {__version__}",
        )
        for result in results
    ]
