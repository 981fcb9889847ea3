"""The figures of an evaluation: a line a task on stderr, tables on stdout."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from gritlm.cli import logs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gritlm.evaluation.report.view import Row, Section
    from gritlm.evaluation.run import Step


def tell(step: Step) -> None:
    """A line a task on stderr, above the bar of the next one; none with --quiet."""
    if logs.is_quiet() or step.done is None:
        return
    from tqdm import tqdm

    from gritlm.evaluation.report import words

    done = step.done
    figures = "; ".join(f"{r.task} {r.metric} {words.number(r.score)}" for r in done.results)
    took = "known" if done.cached else words.seconds(sum(r.seconds for r in done.results))
    said = f"{figures} ({took})" if done.results else f"{step.task} skipped: {done.reason}"
    tqdm.write(f"[{step.number}/{step.total}] {step.model}: {said}", file=sys.stderr)


def show(sections: Sequence[Section], names: Sequence[str]) -> None:
    """One table a half."""
    from rich.console import Console
    from rich.table import Table

    from gritlm.evaluation.report import words

    console = Console(file=sys.stdout, highlight=False, soft_wrap=not sys.stdout.isatty())
    for section in sections:
        table = Table(title=words.title(section), title_justify="left", title_style="bold")
        table.add_column("task", overflow="fold")
        table.add_column("metric", style="dim")
        for name in names:
            table.add_column(name, justify="right", overflow="fold")
        for row in section.means:
            table.add_row(*_row(row), style="bold")
        table.add_section()
        for row in section.rows:
            table.add_row(*_row(row))
        console.print(table)


def _row(row: Row) -> list[str]:
    from rich.markup import escape

    from gritlm.evaluation.report import words

    cells = []
    for cell in row.cells:
        if cell.score is None:
            cells.append(words.MISSING)
            continue
        text = words.with_interval(cell.score, share=row.share)
        more = "" if cell.difference is None else words.change(cell.difference, share=row.share)
        cells.append(escape(f"{text}\n{more}".strip()))
    metric = words.kind(row) if row.kind == "mean" else row.metric
    return [escape(row.name), metric, *cells]
