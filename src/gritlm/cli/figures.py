"""The figures of an evaluation: a line a task on stderr, tables on stdout."""

from __future__ import annotations

import sys
from io import StringIO
from typing import TYPE_CHECKING

from gritlm.cli import logs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.text import Text

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
    from rich.text import Text

    from gritlm.evaluation.report import words

    # apart from stdout: rich itself would end the program when nobody reads any more
    drawn, here = StringIO(), sys.stdout.isatty()
    console = Console(file=drawn, highlight=False, soft_wrap=not here, force_terminal=here or None)
    for section in sections:
        # Text, because names may hold what rich would take for markup
        table = Table(title=Text(words.title(section), "bold"), title_justify="left")
        table.add_column("task", overflow="fold")
        table.add_column("metric", style="dim")
        for name in names:
            table.add_column(Text(name), justify="right", overflow="fold")
        for row in section.means:
            table.add_row(*_row(row), style="bold")
        table.add_section()
        for row in section.rows:
            table.add_row(*_row(row))
        console.print(table, *map(Text, words.left_out(section)), sep="\n")
    sys.stdout.write(drawn.getvalue())


def _row(row: Row) -> list[Text]:
    from rich.text import Text

    from gritlm.evaluation.report import words

    cells = []
    for cell in row.cells:
        if cell.score is None:
            cells.append(Text(words.MISSING))
            continue
        text = words.with_interval(cell.score, share=row.share)
        more = "" if cell.difference is None else words.change(cell.difference, share=row.share)
        cells.append(Text(f"{text}\n{more}".strip()))
    metric = words.kind(row) if row.kind == "mean" else row.metric
    return [Text(row.name), Text(metric), *cells]
