"""Evaluation of models on tasks; results of earlier runs are taken from the cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from gritlm.errors import InputError
from gritlm.evaluation import environment, fingerprints, inputs, kinds
from gritlm.evaluation.cache import ResultCache
from gritlm.evaluation.kinds import Measure
from gritlm.evaluation.models import EvaluatedModel
from gritlm.evaluation.outcome import Outcome, Report, SkippedTask
from gritlm.evaluation.results import Kind
from gritlm.evaluation.runner import MeasuredTask, RunnerOptions, TaskRunner, number_format
from gritlm.evaluation.tasks.discovery import ChosenTask
from gritlm.evaluation.tasks.suites import NAMED, SuitePlan
from gritlm.evaluation.tasks.task import Task

INTERRUPTED = "interrupted before it was measured"


@dataclass(frozen=True)
class Step:
    """Progress of an evaluation, passed to ``watch`` before and after each task.

    Attributes:
        number: number of this task, counted over all models from 1.
        total: number of tasks on all models.
        model: name of the model.
        task: name of the task.
        done: the measured task; None before it is measured.
    """

    number: int
    total: int
    model: str
    task: str
    done: MeasuredTask | None = None


Watch = Callable[[Step], None]


def evaluate(
    models: Sequence[EvaluatedModel],
    plan: SuitePlan,
    *,
    cache: ResultCache,
    options: RunnerOptions | None = None,
    measures: Mapping[Kind, Measure] | None = None,
    command: str = "",
    watch: Watch | None = None,
) -> Report:
    """Measure every task of a plan on every model, and return the report.

    A task is skipped, with the reason in the report, if its data cannot be downloaded, if the
    model cannot do its kind (an encoder cannot generate), or if measuring fails. ``Ctrl-C`` ends
    the run early and returns a report of the tasks measured so far.

    Args:
        models: models to measure, from :func:`~gritlm.evaluation.find_models`; the report shows
            differences to the first one.
        plan: tasks to measure, from :func:`~gritlm.evaluation.make_plan`.
        cache: results of earlier runs; each new result is added as soon as it is measured.
        options: device, number format and batch size of the models. The limit comes from the
            plan.
        measures: function that measures each kind of task; mteb, lm-eval and our own question
            answering by default.
        command: command line, for the report.
        watch: function called before and after each task.

    Returns:
        The report; :func:`~gritlm.evaluation.write_report` writes it to files.

    Raises:
        ModelError: if a model cannot be loaded. Results measured before are in the cache.
        MissingExtraError: if a library that a task needs is not installed.
        BadRowError: for the first unusable row of a local task, with ``skip_bad=False``.
        InputError: if the plan names a task with images or sound that none of the models reads.
    """
    require_readers(models, plan)
    options = replace(options or RunnerOptions(), limit=plan.limit)
    digests = task_digests(plan)
    finished: list[dict[str, MeasuredTask]] = [{} for _ in models]
    stopped = False
    try:
        for position, evaluated in enumerate(models):
            runner = TaskRunner(
                evaluated, options=options, cache=cache, measures=measures or kinds.measures()
            )
            with runner:
                for number, chosen in enumerate(plan.tasks, 1 + position * len(plan.tasks)):
                    step = (number, len(models) * len(plan.tasks), evaluated.name, chosen.name)
                    _notify(watch, Step(*step))
                    done = runner.measure(chosen, digests[chosen.name])
                    finished[position][chosen.name] = done
                    _notify(watch, Step(*step, done))
    except KeyboardInterrupt:
        stopped = True
    formats = [number_format(evaluated, options) for evaluated in models]
    return make_report(models, plan, finished, formats=formats, command=command, stopped=stopped)


def require_readers(models: Sequence[EvaluatedModel], plan: SuitePlan) -> None:
    """Refuse a plan that names a task whose inputs no model reads; a suite may have such tasks.

    Args:
        models: the models.
        plan: the tasks.

    Raises:
        InputError: with the task, and the inputs that each model reads.
    """
    for chosen in plan.tasks if plan.suite == NAMED else ():
        reasons = [inputs.unread(chosen.needs, evaluated.reads) for evaluated in models]
        if all(reasons):
            found = "; ".join(
                f"{evaluated.name}: {reason}"
                for evaluated, reason in zip(models, reasons, strict=True)
            )
            raise InputError(
                f"task {chosen.name!r} cannot be measured ({found}); name a model that reads "
                f"{inputs.listed(chosen.needs)}, or leave the task out"
            )


def task_digests(plan: SuitePlan) -> dict[str, str]:
    """Return the digest of each task of a plan, by name.

    Args:
        plan: the plan.
    """
    return {each.name: fingerprints.of_task(each.task, each.kind) for each in plan.tasks}


def make_report(
    models: Sequence[EvaluatedModel],
    plan: SuitePlan,
    finished: Sequence[Mapping[str, MeasuredTask]],
    *,
    formats: Sequence[str],
    command: str = "",
    stopped: bool = False,
) -> Report:
    """Return the report of measured tasks, in the order of the plan.

    Args:
        models: the models.
        plan: the tasks.
        finished: for each model its measured tasks by name; those of the plan that are missing
            count as interrupted.
        formats: for each model the number format in which it was measured.
        command: command line.
        stopped: whether the run was interrupted.
    """
    outcomes = tuple(
        _outcome(evaluated, done, plan.tasks, dtype)
        for evaluated, done, dtype in zip(models, finished, formats, strict=True)
    )
    local = tuple(each.task for each in plan.tasks if isinstance(each.task, Task))
    return Report(outcomes, plan.suite, plan.limit, environment.about(command), local, stopped)


def _notify(watch: Watch | None, step: Step) -> None:
    if watch is not None:
        watch(step)


def _outcome(
    evaluated: EvaluatedModel,
    finished: Mapping[str, MeasuredTask],
    tasks: Sequence[ChosenTask],
    dtype: str,
) -> Outcome:
    """Return the outcome of a model; tasks after an interruption count as skipped."""
    measured = [
        finished.get(chosen.name, MeasuredTask(chosen, reason=INTERRUPTED)) for chosen in tasks
    ]
    about = {
        "source": str(evaluated.source),
        "adapter": None if evaluated.adapter is None else str(evaluated.adapter),
        "dtype": dtype,
        **evaluated.about,
    }
    return Outcome(
        evaluated.name,
        evaluated.kind,
        evaluated.digest,
        about,
        results=tuple(result for done in measured for result in done.results),
        skipped=tuple(
            SkippedTask(evaluated.name, done.chosen.kind, done.chosen.name, done.reason)
            for done in measured
            if not done.results
        ),
        computed=tuple(done.chosen.name for done in measured if done.results and not done.cached),
        known=tuple(result.task for done in measured if done.cached for result in done.results),
    )
