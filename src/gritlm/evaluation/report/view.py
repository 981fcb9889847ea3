"""Rows and cells of a report, computed once for all three files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gritlm.evaluation import bootstrap, metrics
from gritlm.evaluation.bootstrap import BootstrapSample, Estimate
from gritlm.evaluation.outcome import KINDS, Report, SkippedTask
from gritlm.evaluation.results import Kind, TaskResult

RAG_HEADLINE = "fresh"  # all documents in one prompt: the setting that every model supports
_SETTING = " ("  # rag tasks are named "NAME (setting)"


@dataclass(frozen=True)
class ReportCell:
    """Cell of a model in a row.

    Attributes:
        score: score of the model; None if not measured.
        difference: difference to the first model; None in the column of the first model, or if
            one of the two scores is missing.
        result: result of the task; None for a mean.
        known: whether the result, including its times, comes from an earlier run.
    """

    score: Estimate | None = None
    difference: Estimate | None = None
    result: TaskResult | None = None
    known: bool = False


@dataclass(frozen=True)
class ReportRow:
    """Row of a task, or of the mean of several tasks, for all models.

    Attributes:
        name: name of the task; for a mean, of the group.
        kind: type of the task, e.g. ``STS``; ``mean`` for a mean.
        metric: name of the main metric.
        count: number of rows of the task; for a mean, number of tasks.
        cells: cell of each model.
        share: whether scores are in percent.
        less: whether lower is better.
        left_out: tasks that a mean leaves out: a model that has others of the group lacks them,
            or their metric is not a percentage where higher is better.
    """

    name: str
    kind: str
    metric: str
    count: int
    cells: tuple[ReportCell, ...]
    share: bool = True
    less: bool = False
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReportSection:
    """Section of the report for one kind of task.

    Attributes:
        kind: ``embedding``, ``generation``, ``rag`` or ``senses``.
        headline: main figure of the kind; None if the models have no task in common.
        groups: means of the tasks of a type (of a setting, for rag), with at least two tasks.
        rows: row of each task.
    """

    kind: Kind
    headline: ReportRow | None
    groups: tuple[ReportRow, ...]
    rows: tuple[ReportRow, ...]

    @property
    def means(self) -> tuple[ReportRow, ...]:
        """Rows above the tasks: the mean of all tasks, if it adds something, and the groups."""
        whole = self.headline
        if whole is None or whole.count < 2 or self.kind == "rag":
            return self.groups
        return (whole, *self.groups)


@dataclass(frozen=True)
class Reason:
    """Tasks that a model skipped for the same reason.

    Attributes:
        model: name of the model.
        kind: kind of the tasks.
        reason: why they were skipped.
        tasks: names of the tasks.
    """

    model: str
    kind: Kind
    reason: str
    tasks: tuple[str, ...]


def sections(report: Report) -> list[ReportSection]:
    """Return the sections of the kinds that have results."""
    drawn = [
        {result.task: bootstrap.resampled(result) for result in model.results}
        for model in report.models
    ]
    known = [frozenset(model.known) for model in report.models]
    return [
        _section(kind, report.tasks_of(kind), drawn, known)
        for kind in KINDS
        if report.tasks_of(kind)
    ]


def reasons(report: Report) -> list[Reason]:
    """Return the skipped tasks, grouped by model and reason."""
    found: dict[tuple[str, Kind, str], list[str]] = {}
    skipped: list[SkippedTask] = [each for model in report.models for each in model.skipped]
    for each in skipped:
        found.setdefault((each.model, each.half, each.reason), []).append(each.task)
    return [Reason(*key, tuple(tasks)) for key, tasks in found.items()]


def group(result: TaskResult) -> str:
    """Return the group that a task is averaged in: its type; for rag tasks, its setting."""
    if result.half == "rag" and _SETTING in result.task:
        return result.task.rsplit(_SETTING, 1)[1].removesuffix(")")
    return result.kind


def _section(
    kind: Kind,
    tasks: Sequence[TaskResult],
    drawn: Sequence[Mapping[str, BootstrapSample]],
    known: Sequence[frozenset[str]],
) -> ReportSection:
    shares = [task for task in tasks if metrics.counts(task.metric)]
    by_group: dict[str, list[TaskResult]] = {}
    for task in shares:
        by_group.setdefault(group(task), []).append(task)
    groups = [_mean_row(name, members, drawn) for name, members in by_group.items()]
    if kind == "rag":
        headline = next((row for row in groups if row and row.name == RAG_HEADLINE), None)
    else:
        headline = _mean_row("all tasks", shares, drawn, [t.task for t in tasks if t not in shares])
    several = [row for row in groups if row is not None and row.count > 1]
    return ReportSection(
        kind, headline, tuple(several), tuple(_row(task, drawn, known) for task in tasks)
    )


def _row(
    task: TaskResult,
    drawn: Sequence[Mapping[str, BootstrapSample]],
    known: Sequence[frozenset[str]],
) -> ReportRow:
    first = drawn[0].get(task.task)
    cells = []
    for position, model in enumerate(drawn):
        one = model.get(task.task)
        both = one is not None and first is not None and position > 0
        cells.append(
            ReportCell(
                score=None if one is None else bootstrap.score(one),
                difference=bootstrap.difference(one, first) if both and one and first else None,
                result=None if one is None else one.result,
                known=task.task in known[position],
            )
        )
    return ReportRow(
        task.task,
        task.kind,
        task.metric,
        task.count,
        tuple(cells),
        share=metrics.is_percentage(task.metric),
        less=metrics.less_is_better(task.metric),
    )


def _mean_row(
    name: str,
    tasks: Sequence[TaskResult],
    drawn: Sequence[Mapping[str, BootstrapSample]],
    others: Sequence[str] = (),
) -> ReportRow | None:
    """Return the mean over the tasks that every able model has; a model with any task is able.

    Args:
        name: name of the group.
        tasks: a result of each task of the group.
        drawn: samples of each model, by task.
        others: names of further tasks that cannot be averaged.

    Returns:
        The row; None if the able models have no task in common.
    """
    names = [task.task for task in tasks]
    able = [model for model in drawn if any(task in model for task in names)]
    common = [task for task in names if all(task in model for model in able)]
    if not common:
        return None
    first = [drawn[0][task] for task in common] if common[0] in drawn[0] else None
    cells = []
    for position, model in enumerate(drawn):
        many = [model[task] for task in common] if common[0] in model else None
        both = many is not None and first is not None and position > 0
        cells.append(
            ReportCell(
                score=None if many is None else bootstrap.mean(many),
                difference=bootstrap.mean_difference(many, first)
                if both and many and first
                else None,
            )
        )
    figures = {task.metric for task in tasks}
    return ReportRow(
        name,
        "mean",
        figures.pop() if len(figures) == 1 else "main figures",
        len(common),
        tuple(cells),
        left_out=(*(task for task in names if task not in common), *others),
    )
