"""``report.html``: a self-contained page in light and dark, for large screens and phones."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib import resources
from string import Template

from gritlm.evaluation.outcome import Report
from gritlm.evaluation.report import parts, svg, view, words
from gritlm.evaluation.report.svg import Point
from gritlm.evaluation.report.view import ReportSection


def text(report: Report, sections: Sequence[ReportSection]) -> str:
    """Return the content of ``report.html``."""
    names = [model.name for model in report.models]
    title = f"{', '.join(names)}: evaluation"
    tasks = {task.name: task for task in report.tasks}
    body = [
        _head(report),
        _glance(names, sections),
        *(parts.section(section, names, tasks) for section in sections),
        _skipped(report),
        _models(report),
        _foot(report),
    ]
    return Template(_file("page.html")).substitute(
        title=escape(title), style=_file("page.css").strip(), body="\n".join(filter(None, body))
    )


def _file(name: str) -> str:
    return resources.files("gritlm.evaluation.report").joinpath(name).read_text(encoding="utf-8")


def _head(report: Report) -> str:
    items = []
    for position, model in enumerate(report.models):
        size = model.about.get("parameters")
        facts = [
            model.kind,
            f"{words.setting('parameters', size)} parameters" if size else "",
            str(model.about.get("dtype", "")),
        ]
        if position == 0 and len(report.models) > 1:
            facts.append("differences are to this model")
        items.append(
            f"<li>{parts.dot(position)}<strong>{escape(model.name)}</strong><br>"
            f'<span class="soft small">{escape(" · ".join(filter(None, facts)))}</span></li>'
        )
    stopped = (
        '<p class="warn">This run was interrupted. The tasks that are missing are listed under '
        "Skipped. Run the same command again to continue.</p>"
    )
    return (
        "<header><h1>Evaluation report</h1>"
        f'<p class="lead">{escape(words.subtitle(report))}</p>'
        f'<ul class="legend">{"".join(items)}</ul>{stopped if report.stopped else ""}</header>'
    )


def _glance(names: Sequence[str], sections: Sequence[ReportSection]) -> str:
    """Return the main figure of each kind, and a plot of two kinds if some model has both."""
    shown = [section for section in sections if section.headline is not None]
    if not shown:
        return ""
    blocks = "".join(
        f"<section><h3>{escape(words.title(section))} "
        f'<span class="soft small">{escape(words.headline_name(section))}</span></h3>'
        f"{parts.bars(section.headline, names, large=True)}</section>"
        for section in shown
        if section.headline is not None
    )
    drawn = _plane(names, shown)
    caption = (
        "Further right and further up is better. Dashed: a model that has only one of the two."
    )
    card = (
        f'<div class="card plot">{drawn}<p class="soft small">{caption}</p></div>' if drawn else ""
    )
    return (
        f'<h2>Summary</h2><div class="glance{" two" if card else ""}">'
        f'<div class="card">{blocks}</div>{card}</div>'
    )


def _plane(names: Sequence[str], sections: Sequence[ReportSection]) -> str:
    by_kind = {section.kind: section.headline for section in sections}
    across = by_kind.get("embedding")
    up = by_kind.get("generation") or by_kind.get("rag")
    if across is None or up is None:
        return ""
    points = [
        Point(name, position, across.cells[position].score, up.cells[position].score)
        for position, name in enumerate(names)
    ]
    if len(points) < 2 or not any(point.across and point.up for point in points):
        return ""
    return svg.plane(points, across="embeds", up="writes" if by_kind.get("generation") else "reads")


def _skipped(report: Report) -> str:
    items = "".join(
        f"<li>{parts.dot(_position(report, each.model))}<strong>{escape(each.model)}</strong>: "
        f"{escape(', '.join(each.tasks))}<br>"
        f'<span class="soft small">{escape(each.reason)}</span></li>'
        for each in view.reasons(report)
    )
    if not items:
        return ""
    return f'<h2>Skipped</h2><div class="card"><ul class="skipped">{items}</ul></div>'


def _position(report: Report, name: str) -> int:
    return next(i for i, model in enumerate(report.models) if model.name == name)


def _models(report: Report) -> str:
    keys = list(dict.fromkeys(key for model in report.models for key in model.about))
    rows = [
        ("kind", [model.kind for model in report.models]),
        *(
            (words.label(key), [words.setting(key, m.about.get(key)) for m in report.models])
            for key in keys
        ),
        ("digest", [model.digest[:12] for model in report.models]),
    ]
    head = "".join(parts.column(i, model.name) for i, model in enumerate(report.models))
    body = "".join(
        f"<tr><th>{escape(name)}</th>{''.join(f'<td>{escape(v)}</td>' for v in values)}</tr>"
        for name, values in rows
    )
    return (
        '<h2>Models</h2><div class="card wide"><table class="plain"><thead><tr><th></th>'
        f"{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _foot(report: Report) -> str:
    about = report.about
    lines = [f"<p>{escape(note)}</p>" for note in words.NOTES]
    if about.get("command"):
        lines.append(f"<p>Made by <code>{escape(about['command'])}</code></p>")
    for name in ("versions", "machine"):
        values = ", ".join(
            f"{words.label(key)} {words.setting(key, value)}"
            for key, value in about.get(name, {}).items()
        )
        lines.append(f"<p>{name.capitalize()}: {escape(values)}</p>")
    lines.append(f"<p>{escape(str(about.get('date', '')))}</p>")
    return f'<footer class="soft small">{"".join(lines)}</footer>'
