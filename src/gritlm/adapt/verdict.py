"""Verdict on an adapter: one sentence, from the differences of the report and their intervals."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from gritlm.adapt import report_tasks
from gritlm.evaluation import bootstrap
from gritlm.evaluation.bootstrap import Estimate
from gritlm.evaluation.outcome import Report
from gritlm.evaluation.results import TaskResult

Decision = Literal["use", "do not use", "undecided"]
WORSE = 1.0  # points that a task may lose before the adapter is advised against
_RETRIEVAL = (report_tasks.REAL, report_tasks.REAL_TRAINED, report_tasks.WRITTEN)


@dataclass(frozen=True)
class Difference:
    """Difference of the adapted model to the model before, on one task.

    Attributes:
        task: name of the task.
        before: score of the model before, in percent.
        after: score of the adapted model, in percent.
        estimate: the difference in points, with its 95% interval from the same rows.
    """

    task: str
    before: float
    after: float
    estimate: Estimate

    @property
    def better(self) -> bool:
        """Whether the whole interval is above 0."""
        return self.estimate.low is not None and self.estimate.low > 0

    @property
    def worse(self) -> bool:
        """Whether the score fell by more than :data:`WORSE`, and the whole interval is below 0."""
        high = self.estimate.high
        return high is not None and high < 0 and self.estimate.value < -WORSE

    def __str__(self) -> str:
        """Return the difference in words: task, both scores, and the interval."""
        found = f"{self.task} {self.before:.1f} -> {self.after:.1f}"
        if self.estimate.low is None or self.estimate.high is None:
            return f"{found} (no interval)"
        return f"{found} ({self.estimate.low:+.1f} to {self.estimate.high:+.1f})"


@dataclass(frozen=True)
class Verdict:
    """Whether an adapter should be used.

    Attributes:
        decision: ``use``, ``do not use`` or ``undecided``.
        sentence: the decision and its reason.
        differences: differences on all tasks that both models were measured on.
    """

    decision: Decision
    sentence: str
    differences: tuple[Difference, ...] = field(default=())


def judge(report: Report) -> Verdict:
    """Return the verdict of a report over the model before and the adapted model.

    The retrieval task of the questions nearest to real use decides: real questions on documents
    that were not trained, else real ones on trained documents, else written ones. The adapter is
    advised against if that task, the answers, or a general task got worse.

    Args:
        report: report with the model before as the first and the adapted model as the second.
    """
    found = differences(report)
    main = next((each for name in _RETRIEVAL for each in found if each.task == name), None)
    harmed = [each for each in found if each.worse]
    shown = tuple(found)
    if main is None:
        return Verdict(
            "undecided",
            "undecided: there are too few questions on documents that were not trained; add "
            "documents, or questions people asked",
            shown,
        )
    if harmed:
        listed = ", ".join(map(str, harmed))
        return Verdict("do not use", f"do not use this adapter: worse at {listed}", shown)
    if main.better:
        return Verdict(
            "use", f"use this adapter: better at {main}, and no task became worse", shown
        )
    return Verdict(
        "undecided",
        f"undecided: no difference at {main} that its questions can show; train longer, or add "
        "documents or questions",
        shown,
    )


def differences(report: Report) -> list[Difference]:
    """Return the differences on all tasks that both models were measured on."""
    before, after = report.models
    found = []
    for result in after.results:
        first = before.result(result.task)
        if first is not None:
            found.append(_difference(result, first))
    return found


def _difference(result: TaskResult, first: TaskResult) -> Difference:
    estimate = bootstrap.difference(bootstrap.resampled(result), bootstrap.resampled(first))
    return Difference(result.task, first.score, result.score, estimate)
