"""Values in the details of a task on the page: descriptions, figures, the tone of a difference."""

from __future__ import annotations

from collections.abc import Mapping

from gritlm.evaluation.bootstrap import Estimate
from gritlm.evaluation.report import words
from gritlm.evaluation.report.view import ReportCell, ReportRow
from gritlm.evaluation.tasks.task import Task

_TIMES = ("_ms", "_s", "seconds")  # suffixes of figures that are times


def tone(difference: Estimate, row: ReportRow) -> str:
    """Return the class of a difference: green or red if its interval excludes 0."""
    if not difference.differs:
        return "soft"
    return "good" if (difference.value > 0) != row.less else "bad"


def descriptions(row: ReportRow, tasks: Mapping[str, Task]) -> list[tuple[str, str]]:
    """Return names and texts that describe the task of a row; none for a task of a hub.

    Args:
        row: row of the task; those of rag tasks have the setting in their name.
        tasks: local tasks by name.
    """
    task = tasks.get(row.name) or tasks.get(row.name.rpartition(" (")[0])
    if task is None:
        return []
    facts = [
        ("", task.description),
        ("Instruction", task.instruction),
        ("Passages", task.passage_instruction),
        ("Language", task.language),
        ("Source", task.source),
        ("Licence", task.licence),
    ]
    return [(name, text) for name, text in facts if text]


def figures(row: ReportRow) -> list[tuple[str, list[str]]]:
    """Return main score, other scores, rows, time and harness of a task, for each model."""
    results = [cell.result for cell in row.cells]
    others = dict.fromkeys(name for r in results if r is not None for name in r.details)
    return [
        (row.metric, [_score(cell, row) for cell in row.cells]),
        *(
            (name, [_detail(name, cell) for cell in row.cells])
            for name in others
            if name != row.metric
        ),
        ("rows", [str(r.count) if r else words.MISSING for r in results]),
        ("time", [_time(cell) for cell in row.cells]),
        ("measured by", [r.harness if r else words.MISSING for r in results]),
    ]


def _score(cell: ReportCell, row: ReportRow) -> str:
    return words.MISSING if cell.score is None else words.with_interval(cell.score, share=row.share)


def _time(cell: ReportCell) -> str:
    result = cell.result
    return words.MISSING if result is None else words.took(result.seconds, known=cell.known)


def _detail(name: str, cell: ReportCell) -> str:
    value = None if cell.result is None else cell.result.details.get(name)
    if value is None:
        return words.MISSING
    earlier = words.EARLIER if cell.known and name.endswith(_TIMES) else ""
    return f"{value:.4g}{earlier}"
