"""Figures and settings in words, the same in all three files."""

from __future__ import annotations

from typing import Any

from gritlm.evaluation.bootstrap import Estimate
from gritlm.evaluation.outcome import TITLES, Report
from gritlm.evaluation.report.view import ReportRow, ReportSection

MISSING = "–"
EARLIER = " (earlier run)"


def number(value: float, *, share: bool = True) -> str:
    """One digit behind the point for percents, four significant ones for the rest."""
    text = f"{value:.1f}" if share else f"{value:.4g}"
    return text.replace("-", "−")


def signed(value: float, *, share: bool = True) -> str:
    text = number(abs(value), share=share)
    return text if not text.strip("0.") else f"{'+' if value > 0 else '−'}{text}"


def interval(estimate: Estimate, *, share: bool = True) -> str:
    """``[81.9, 84.2]``, or nothing where it is not known."""
    if estimate.low is None or estimate.high is None:
        return ""
    return f"[{number(estimate.low, share=share)}, {number(estimate.high, share=share)}]"


def with_interval(estimate: Estimate, *, share: bool = True) -> str:
    return f"{number(estimate.value, share=share)} {interval(estimate, share=share)}".strip()


def change(estimate: Estimate, *, share: bool = True) -> str:
    """``+2.3 [0.9, 3.6]``."""
    return f"{signed(estimate.value, share=share)} {interval(estimate, share=share)}".strip()


def title(section: ReportSection) -> str:
    return TITLES[section.half]


def headline_name(section: ReportSection) -> str:
    """What the one figure of a half is."""
    row = section.headline
    if row is None:
        return ""
    tasks = f"{row.count} task{'' if row.count == 1 else 's'}"
    return f"{row.name}, {tasks}" if section.half == "rag" else f"mean of {tasks}"


def kind(row: ReportRow) -> str:
    """Type, metric and rows of a task; for a mean its tasks."""
    if row.kind == "mean":
        return f"mean of {row.count} task{'' if row.count == 1 else 's'}"
    return f"{row.kind} · {row.metric} · {row.count} rows"


def notes(section: ReportSection) -> list[str]:
    """Return the sentences below the table of a half: tasks left out of means, rows skipped."""
    return [*left_out(section), *skipped_rows(section)]


def skipped_rows(section: ReportSection) -> list[str]:
    """Return a sentence for each task some of whose rows could not be used."""
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
    """Which tasks are not in the mean of a half, and in those of groups, as sentences."""
    whole = section.headline
    lines = []
    if whole is not None and whole.left_out:
        name = whole.name if section.half == "rag" else ""
        lines.append(_left_out(name, whole.left_out))
    told = set() if whole is None else set(whole.left_out)
    for row in section.groups:
        if set(row.left_out) - told:
            lines.append(_left_out(row.name, row.left_out))
    return lines


def _left_out(name: str, tasks: tuple[str, ...]) -> str:
    return f"Not in the mean{f' of {name}' if name else ''}: {', '.join(tasks)}."


def took(value: float, *, known: bool) -> str:
    """A time, with a word when it is that of an earlier run."""
    return f"{seconds(value)}{EARLIER if known else ''}"


def subtitle(report: Report) -> str:
    """Suite, rows and date in a line."""
    rows = "all rows" if report.limit is None else f"the first {report.limit} rows of each task"
    suite = "Tasks named one by one" if report.suite == "tasks" else f"Suite {report.suite}"
    stopped = "; interrupted" if report.stopped else ""
    return f"{suite}, {rows}, {str(report.about.get('date', ''))[:10]}{stopped}"


def seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 100 else f"{value / 60:.1f} min"


def label(name: str) -> str:
    """The name of a setting."""
    return name.removesuffix("_gib").replace("_", " ")


def setting(name: str, value: Any) -> str:
    """A setting of a model or of the machine."""
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
    "Scores are percent unless said otherwise. Intervals hold 95% of 1,000 resamples of the rows; "
    "differences are to the first model on the same rows. Where the figure of each row is not "
    "known there is no interval.",
    "A mean counts each task the same and takes in the tasks that all models have which do this "
    "half at all; what is left out is named. It has an interval where all of its tasks have one.",
)
