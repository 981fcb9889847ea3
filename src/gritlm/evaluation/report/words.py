"""Text of scores, settings and notes, for ``report.md``, ``report.html`` and printed tables.

``share`` says that a value is in percent; perplexities and the like are not.
"""

from __future__ import annotations

from typing import Any

from gritlm.evaluation.bootstrap import Estimate
from gritlm.evaluation.outcome import TITLES, Report
from gritlm.evaluation.report.view import ReportRow, ReportSection

MISSING = "–"
EARLIER = " (earlier run)"  # after times that a cached result was measured with


def number(value: float, *, share: bool = True) -> str:
    """Format a value: percentages with one decimal, others with four significant digits."""
    text = f"{value:.1f}" if share else f"{value:.4g}"
    return text.replace("-", "−")


def signed(value: float, *, share: bool = True) -> str:
    """Format a difference with its sign; zero has none."""
    text = number(abs(value), share=share)
    return text if not text.strip("0.") else f"{'+' if value > 0 else '−'}{text}"


def interval(estimate: Estimate, *, share: bool = True) -> str:
    """Format an interval as ``[81.9, 84.2]``; an unknown one is empty."""
    if estimate.low is None or estimate.high is None:
        return ""
    return f"[{number(estimate.low, share=share)}, {number(estimate.high, share=share)}]"


def with_interval(estimate: Estimate, *, share: bool = True) -> str:
    """Format a score with its interval."""
    return f"{number(estimate.value, share=share)} {interval(estimate, share=share)}".strip()


def change(estimate: Estimate, *, share: bool = True) -> str:
    """Format a difference as ``+2.3 [0.9, 3.6]``."""
    return f"{signed(estimate.value, share=share)} {interval(estimate, share=share)}".strip()


def title(section: ReportSection) -> str:
    """Return the title of a section."""
    return TITLES[section.kind]


def headline_name(section: ReportSection) -> str:
    """Return a description of the main figure of a section."""
    row = section.headline
    if row is None:
        return ""
    tasks = f"{row.count} task{'' if row.count == 1 else 's'}"
    return f"{row.name}, {tasks}" if section.kind == "rag" else f"mean of {tasks}"


def kind(row: ReportRow) -> str:
    """Return type, metric and number of rows of a task; for a mean, the number of tasks."""
    if row.kind == "mean":
        return f"mean of {row.count} task{'' if row.count == 1 else 's'}"
    return f"{row.kind} · {row.metric} · {row.count} rows"


def notes(section: ReportSection) -> list[str]:
    """Return the sentences below a table: tasks left out of means, and skipped rows."""
    return [*left_out(section), *skipped_rows(section)]


def skipped_rows(section: ReportSection) -> list[str]:
    """Return a sentence for each task with unusable rows."""
    found: dict[tuple[int, tuple[str, ...]], list[str]] = {}
    for row in section.rows:
        result = next((cell.result for cell in row.cells if cell.result is not None), None)
        if result is not None and result.rows_skipped:
            found.setdefault((result.rows_skipped, result.skip_reasons), []).append(row.name)
    return [_skipped_rows(names, *key) for key, names in found.items()]


def _skipped_rows(names: list[str], count: int, reasons: tuple[str, ...]) -> str:
    more = f"; and {count - len(reasons)} more" if count > len(reasons) else ""
    rows = "1 row" if count == 1 else f"{count} rows"
    return f"{rows} skipped in {', '.join(names)}: {'; '.join(reasons)}{more}."


def left_out(section: ReportSection) -> list[str]:
    """Return a sentence for each mean that leaves out tasks."""
    whole = section.headline
    lines = []
    if whole is not None and whole.left_out:
        name = whole.name if section.kind == "rag" else ""
        lines.append(_left_out(name, whole.left_out))
    reported = set() if whole is None else set(whole.left_out)
    for row in section.groups:
        if set(row.left_out) - reported:
            lines.append(_left_out(row.name, row.left_out))
    return lines


def _left_out(name: str, tasks: tuple[str, ...]) -> str:
    return f"Not in the mean{f' of {name}' if name else ''}: {', '.join(tasks)}."


def took(value: float, *, known: bool) -> str:
    """Format a time, marked if it comes from an earlier run."""
    return f"{seconds(value)}{EARLIER if known else ''}"


def subtitle(report: Report) -> str:
    """Return suite, rows and date in a line."""
    rows = "all rows" if report.limit is None else f"the first {report.limit} rows of each task"
    suite = "Tasks named one by one" if report.suite == "tasks" else f"Suite {report.suite}"
    stopped = "; interrupted" if report.stopped else ""
    return f"{suite}, {rows}, {str(report.about.get('date', ''))[:10]}{stopped}"


def seconds(value: float) -> str:
    """Format seconds, as minutes from 100 s."""
    return f"{value:.1f} s" if value < 100 else f"{value / 60:.1f} min"


def label(name: str) -> str:
    """Return the displayed name of a setting."""
    return name.removesuffix("_gib").replace("_", " ")


def setting(name: str, value: Any) -> str:
    """Format the value of a setting of a model or of the machine."""
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name == "parameters":
        return f"{value / 1e6:,.1f} million"
    if name == "weights":
        return f"{value / 2**20:,.1f} MiB"
    if name == "memory_gib":
        return f"{value:g} GiB"
    return f"{value:,}" if isinstance(value, int) else str(value)


NOTES = (
    "Scores are in percent unless marked otherwise. Intervals hold 95% of 1,000 resamples of the "
    "rows. Differences are to the first model, on the same rows. A task whose scores of single "
    "rows are unknown has no interval.",
    "A mean weights its tasks equally. It includes the tasks measured on every model that has any "
    "result of this kind; the tasks left out are listed. It has an interval if all of its tasks "
    "have one.",
)
