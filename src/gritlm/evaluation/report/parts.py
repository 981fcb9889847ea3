"""Building blocks of the page: bars of a row, the table of a kind, details of a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from gritlm.evaluation.bootstrap import Estimate
from gritlm.evaluation.report import svg, words
from gritlm.evaluation.report.view import ReportCell, ReportRow, ReportSection
from gritlm.evaluation.tasks.task import Task

_TIMES = ("_ms", "_s", "seconds")  # suffixes of figures that are times


def dot(position: int) -> str:
    """Return the coloured dot of a model."""
    return f'<span class="dot {svg.colour(position)}"></span>'


def column(position: int, name: str) -> str:
    """Return the header cell of a model's column."""
    return f'<th scope="col">{dot(position)}{escape(name)}</th>'


def section(section: ReportSection, names: Sequence[str], tasks: Mapping[str, Task]) -> str:
    """Return the section of a kind: the table of means and tasks, then each task in detail."""
    rows = [_table_row(row, "mean") for row in section.means]
    body = "".join([*rows, *map(_table_row, section.rows)])
    head = "".join(column(position, name) for position, name in enumerate(names))
    rest = "".join(f'<p class="soft small">{escape(line)}</p>' for line in words.notes(section))
    folded = "".join(_task(row, names, _about(row, tasks)) for row in section.rows)
    return (
        f'<h2>{escape(words.title(section))}</h2><div class="card wide"><table><thead><tr>'
        f'<th scope="col">Task</th>{head}</tr></thead><tbody>{body}</tbody></table></div>{rest}'
        f'<h3 class="by-task">Task by task</h3><div class="card">{folded}</div>'
    )


def bars(row: ReportRow, names: Sequence[str], *, large: bool = False) -> str:
    """Return a line for each model: name, bar with whiskers, score and difference."""
    lines = []
    for position, (name, cell) in enumerate(zip(names, row.cells, strict=True)):
        label = f'<span class="who" title="{escape(name)}">{dot(position)}{escape(name)}</span>'
        lines.append(label + _bar(cell, row, position, name))
    return f'<span class="bars{" big" if large else ""}">{"".join(lines)}</span>'


def _bar(cell: ReportCell, row: ReportRow, position: int, name: str) -> str:
    if cell.score is None:
        return '<span class="none">not measured</span>'
    label = f"{name}: {words.with_interval(cell.score, share=row.share)}"
    drawn = svg.bar(cell.score, position=position, label=label) if row.share else "<span></span>"
    number = words.number(cell.score.value, share=row.share)
    return f'{drawn}<span class="num">{number}</span>{_change(cell.difference, row)}'


def _change(difference: Estimate | None, row: ReportRow) -> str:
    if difference is None:
        return '<span class="diff"></span>'
    text = words.signed(difference.value, share=row.share)
    return f'<span class="diff {_tone(difference, row)}">{text}</span>'


def _tone(difference: Estimate, row: ReportRow) -> str:
    """Return the class of a difference: green or red if its interval excludes 0."""
    if not difference.differs:
        return "soft"
    return "good" if (difference.value > 0) != row.less else "bad"


def _table_row(row: ReportRow, kind: str = "") -> str:
    cells = "".join(_cell(cell, row) for cell in row.cells)
    return (
        f'<tr class="{kind}"><th scope="row">{escape(row.name)}'
        f"<span>{escape(words.kind(row))}</span></th>{cells}</tr>"
    )


def _cell(cell: ReportCell, row: ReportRow) -> str:
    if cell.score is None:
        return f'<td class="soft">{words.MISSING}</td>'
    number = words.number(cell.score.value, share=row.share)
    within = f"<span>{words.interval(cell.score, share=row.share)}</span>"
    if cell.difference is None:
        return f"<td><b>{number}</b>{within}</td>"
    change = words.change(cell.difference, share=row.share)
    return (
        f"<td><b>{number}</b>{within}"
        f'<span class="{_tone(cell.difference, row)}">{change}</span></td>'
    )


def _about(row: ReportRow, tasks: Mapping[str, Task]) -> Task | None:
    """Return the local task of a row; the rows of rag tasks have the setting in their name."""
    return tasks.get(row.name) or tasks.get(row.name.rpartition(" (")[0])


def _task(row: ReportRow, names: Sequence[str], task: Task | None) -> str:
    facts = (
        []
        if task is None
        else [
            ("", task.description),
            ("Instruction", task.instruction),
            ("Passages", task.passage_instruction),
            ("Language", task.language),
            ("Source", task.source),
            ("Licence", task.licence),
        ]
    )
    lines = "".join(
        f'<p class="small">{f"<strong>{name}:</strong> " if name else ""}{escape(text)}</p>'
        for name, text in facts
        if text
    )
    return (
        f'<details><summary><span class="task">{escape(row.name)}'
        f'<span class="what">{escape(words.kind(row))}</span></span>'
        f"{bars(row, names)}</summary>"
        f'<div class="about">{lines}{_figures(row, names)}</div></details>'
    )


def _figures(row: ReportRow, names: Sequence[str]) -> str:
    """Return the table of a task: main score, other scores, rows, time and harness."""
    results = [cell.result for cell in row.cells]
    details = dict.fromkeys(name for r in results if r is not None for name in r.details)
    lines = [(row.metric, [_main(cell, row) for cell in row.cells])]
    lines += [
        (name, [_detail(name, cell) for cell in row.cells])
        for name in details
        if name != row.metric
    ]
    lines.append(("rows", [str(r.count) if r else words.MISSING for r in results]))
    lines.append(("time", [_time(cell) for cell in row.cells]))
    lines.append(("measured by", [r.harness if r else words.MISSING for r in results]))
    head = "".join(column(position, name) for position, name in enumerate(names))
    body = "".join(
        f"<tr><th>{escape(name)}</th>{''.join(f'<td>{escape(text)}</td>' for text in values)}</tr>"
        for name, values in lines
    )
    return (
        f'<div class="wide"><table><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _main(cell: ReportCell, row: ReportRow) -> str:
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
