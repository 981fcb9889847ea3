"""Models and tasks -> report: what is known is taken from the cache, the rest is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from gritlm.evaluation import environment, fingerprints, kinds
from gritlm.evaluation.cache import ResultCache
from gritlm.evaluation.kinds import Measure
from gritlm.evaluation.models import EvaluatedModel
from gritlm.evaluation.outcome import Outcome, Report, SkippedTask
from gritlm.evaluation.results import Half
from gritlm.evaluation.runner import MeasuredTask, RunnerOptions, TaskRunner, number_format
from gritlm.evaluation.tasks.discovery import ChosenTask
from gritlm.evaluation.tasks.suites import SuitePlan
from gritlm.evaluation.tasks.task import Task

INTERRUPTED = "interrupted before it was measured"


@dataclass(frozen=True)
class Step:
    """A task and what came of it, for whoever watches.

    Attributes:
        number, total: of all tasks on all models.
        done: None before it is measured.
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
    measures: Mapping[Half, Measure] | None = None,
    command: str = "",
    watch: Watch | None = None,
) -> Report:
    """Measure every task on every model; ctrl-C ends it with a report of what is there.

    A task whose data cannot be reached, or a half that a model cannot do, is skipped and named.

    Args:
        models: differences are to the first of them.
        cache: results that are there are not measured again; those measured are kept at once.
        options: how models are run; the plan has the limit.
        measures: what measures each half; the real harnesses when left out.
        command: what was typed, for the report.
        watch: called before and after each task.

    Raises:
        ModelError: for a model that cannot be loaded; what was measured before is in the cache.
        MissingExtraError: without a library that a task needs.
    """
    options = replace(options or RunnerOptions(), limit=plan.limit)
    read = {each.name: fingerprints.of_task(each.task, each.half) for each in plan.tasks}
    finished: list[list[MeasuredTask]] = [[] for _ in models]
    stopped = False
    try:
        for position, subject in enumerate(models):
            bench = TaskRunner(
                subject, options=options, cache=cache, measures=measures or kinds.measures()
            )
            with bench:
                for number, chosen in enumerate(plan.tasks, 1 + position * len(plan.tasks)):
                    step = (number, len(models) * len(plan.tasks), subject.name, chosen.name)
                    _tell(watch, Step(*step))
                    done = bench.measure(chosen, read[chosen.name])
                    finished[position].append(done)
                    _tell(watch, Step(*step, done))
    except KeyboardInterrupt:
        stopped = True
    outcomes = tuple(
        _outcome(subject, done, plan.tasks, options)
        for subject, done in zip(models, finished, strict=True)
    )
    local = tuple(each.task for each in plan.tasks if isinstance(each.task, Task))
    return Report(outcomes, plan.suite, plan.limit, environment.about(command), local, stopped)


def _tell(watch: Watch | None, step: Step) -> None:
    if watch is not None:
        watch(step)


def _outcome(
    subject: EvaluatedModel,
    finished: Sequence[MeasuredTask],
    tasks: Sequence[ChosenTask],
    options: RunnerOptions,
) -> Outcome:
    """What a model came to; tasks that had no turn are named as interrupted."""
    rest = [MeasuredTask(chosen, reason=INTERRUPTED) for chosen in tasks[len(finished) :]]
    about = {
        "source": str(subject.source),
        "adapter": None if subject.adapter is None else str(subject.adapter),
        "dtype": number_format(subject, options),
        **subject.about,
    }
    return Outcome(
        subject.name,
        subject.kind,
        subject.digest,
        about,
        results=tuple(result for done in finished for result in done.results),
        skipped=tuple(
            SkippedTask(subject.name, done.chosen.half, done.chosen.name, done.reason)
            for done in (*finished, *rest)
            if not done.results
        ),
        computed=tuple(done.chosen.name for done in finished if done.results and not done.cached),
        known=tuple(result.task for done in finished if done.cached for result in done.results),
    )
