"""Printing of an evaluation for ``gritlm eval``: a line a task on stderr, tables on stdout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gritlm.cli import logs, terminal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.text import Text

    from gritlm.evaluation.report.view import ReportRow, ReportSection
    from gritlm.evaluation.run import Step


def print_step(step: Step) -> None:
    """Print a line for a task on stderr, above the progress bar; nothing with --quiet."""
    if step.done is None:
        return
    from gritlm.evaluation.report import words

    done = step.done
    figures = "; ".join(f"{r.task} {r.metric} {words.number(r.score)}" for r in done.results)
    took = "known" if done.cached else words.seconds(sum(r.seconds for r in done.results))
    text = f"{figures} ({took})" if done.results else f"{step.task} skipped: {done.reason}"
    logs.note_above_bar(f"[{step.number}/{step.total}] {step.model}: {text}")


def print_tables(sections: Sequence[ReportSection], names: Sequence[str]) -> None:
    """Print a table for each kind of task."""
    from rich.table import Table

    from gritlm.evaluation.report import words

    for section in sections:
        table = Table(title=terminal.text(words.title(section), "bold"), title_justify="left")
        table.add_column("task", overflow="fold")
        table.add_column("metric", style="dim")
        for name in names:
            table.add_column(terminal.text(name), justify="right", overflow="fold")
        for row in section.means:
            table.add_row(*_row(row), style="bold")
        table.add_section()
        for row in section.rows:
            table.add_row(*_row(row))
        terminal.draw(table, *map(terminal.text, words.notes(section)))


def _row(row: ReportRow) -> list[Text]:
    from gritlm.evaluation.report import words

    cells = []
    for cell in row.cells:
        if cell.score is None:
            cells.append(terminal.text(words.MISSING))
            continue
        text = words.with_interval(cell.score, share=row.share)
        more = "" if cell.difference is None else words.change(cell.difference, share=row.share)
        cells.append(terminal.text(f"{text}\n{more}".strip()))
    metric = words.kind(row) if row.kind == "mean" else row.metric
    return [terminal.text(row.name), terminal.text(metric), *cells]
