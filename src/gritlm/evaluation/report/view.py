"""A report as it is shown: the halves, their groups and tasks, a cell a model. Computed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gritlm.evaluation import bootstrap, metrics
from gritlm.evaluation.bootstrap import BootstrapSample, Estimate
from gritlm.evaluation.outcome import HALVES, Report, SkippedTask
from gritlm.evaluation.results import Half, TaskResult

RAG_HEADLINE = "fresh"  # all documents in one prompt: the setting that every model has
_SETTING = " ("  # rag's tasks are called "NAME (setting)"


@dataclass(frozen=True)
class ReportCell:
    """One model in one row.

    Attributes:
        score: None where it was not measured.
        difference: to the first model; None in its own column, or without both.
        result: of the task; None for a mean.
        known: whether the result, and so its times, come from an earlier run.
    """

    score: Estimate | None = None
    difference: Estimate | None = None
    result: TaskResult | None = None
    known: bool = False


@dataclass(frozen=True)
class ReportRow:
    """A task, or the mean of several, on all models.

    Attributes:
        name: of the task; for a mean the group.
        metric: of the main figure.
        count: rows of the task; for a mean its tasks.
        share: whether scores are percent.
        less: whether less is better.
        left_out: of a mean the tasks that are not in it: some able model lacks them, or their
            figures are no percentages of which more is better.
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
    """A half of the report.

    Attributes:
        headline: the one figure that stands for it; None where its tasks have none in common.
        groups: means of kinds of tasks (of settings, for question answering) with several tasks.
        rows: one a task.
    """

    half: Half
    headline: ReportRow | None
    groups: tuple[ReportRow, ...]
    rows: tuple[ReportRow, ...]

    @property
    def means(self) -> tuple[ReportRow, ...]:
        """The rows above the tasks: the mean of all where that says more than they do, groups."""
        whole = self.headline
        if whole is None or whole.count < 2 or self.half == "rag":
            return self.groups
        return (whole, *self.groups)


@dataclass(frozen=True)
class Reason:
    """Tasks that one model skipped for the same reason."""

    model: str
    half: Half
    reason: str
    tasks: tuple[str, ...]


def sections(report: Report) -> list[ReportSection]:
    """The halves that something was measured of."""
    drawn = [
        {result.task: bootstrap.resampled(result) for result in model.results}
        for model in report.models
    ]
    known = [frozenset(model.known) for model in report.models]
    return [_section(half, report.half(half), drawn, known) for half in HALVES if report.half(half)]


def reasons(report: Report) -> list[Reason]:
    """What was skipped, the tasks of one reason together."""
    found: dict[tuple[str, Half, str], list[str]] = {}
    skipped: list[SkippedTask] = [each for model in report.models for each in model.skipped]
    for each in skipped:
        found.setdefault((each.model, each.half, each.reason), []).append(each.task)
    return [Reason(*key, tuple(tasks)) for key, tasks in found.items()]


def group(result: TaskResult) -> str:
    """What a task is averaged with: those of its kind; in question answering, of its setting."""
    if result.half == "rag" and _SETTING in result.task:
        return result.task.rsplit(_SETTING, 1)[1].removesuffix(")")
    return result.kind


def _section(
    half: Half,
    tasks: Sequence[TaskResult],
    drawn: Sequence[Mapping[str, BootstrapSample]],
    known: Sequence[frozenset[str]],
) -> ReportSection:
    shares = [task for task in tasks if metrics.counts(task.metric)]
    by_group: dict[str, list[TaskResult]] = {}
    for task in shares:
        by_group.setdefault(group(task), []).append(task)
    groups = [_mean_row(name, members, drawn) for name, members in by_group.items()]
    if half == "rag":
        headline = next((row for row in groups if row and row.name == RAG_HEADLINE), None)
    else:
        headline = _mean_row("all tasks", shares, drawn, [t.task for t in tasks if t not in shares])
    several = [row for row in groups if row is not None and row.count > 1]
    return ReportSection(
        half, headline, tuple(several), tuple(_row(task, drawn, known) for task in tasks)
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
    """The mean over the tasks that all models have which have any of them.

    Args:
        others: tasks beside these that cannot be averaged.
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
