"""``report.html``: a self-contained page in light and dark, for large screens and phones.

The markup is in the folder ``templates``; the values that it shows come from here and from
``words``, ``details`` and ``drawings``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from gritlm.evaluation.outcome import Outcome, Report
from gritlm.evaluation.report import details, drawings, view, words
from gritlm.evaluation.report.drawings import Plane, Point
from gritlm.evaluation.report.view import ReportSection


def text(report: Report, sections: Sequence[ReportSection]) -> str:
    """Return the content of ``report.html``."""
    names = [model.name for model in report.models]
    headlines = [section for section in sections if section.headline is not None]
    return (
        _environment()
        .get_template("page.html")
        .render(
            report=report,
            sections=sections,
            names=names,
            headlines=headlines,
            facts=[_facts(report, position) for position in range(len(names))],
            plot=_plot(names, headlines),
            tasks={task.name: task for task in report.tasks},
            skipped=view.reasons(report),
            settings=_settings(report.models),
            made_with=_made_with(report),
        )
    )


@cache
def _environment() -> Environment:
    """Return the environment of the templates, which escapes all values."""
    environment = Environment(
        loader=PackageLoader("gritlm.evaluation.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals.update(words=words, details=details, drawings=drawings)
    return environment


def _facts(report: Report, position: int) -> list[str]:
    """Return the facts shown below the name of a model."""
    model = report.models[position]
    size = model.about.get("parameters")
    facts = [
        model.kind,
        f"{words.setting('parameters', size)} parameters" if size else "",
        str(model.about.get("dtype", "")),
        "differences are to this model" if position == 0 and len(report.models) > 1 else "",
    ]
    return [fact for fact in facts if fact]


def _plot(names: Sequence[str], sections: Sequence[ReportSection]) -> Plane | None:
    """Return the plot of two kinds; None if fewer than two models or no model with both."""
    by_kind = {section.kind: section.headline for section in sections}
    across = by_kind.get("embedding")
    up = by_kind.get("generation") or by_kind.get("rag")
    if across is None or up is None:
        return None
    points = [
        Point(name, position, across.cells[position].score, up.cells[position].score)
        for position, name in enumerate(names)
    ]
    if len(points) < 2 or not any(point.across and point.up for point in points):
        return None
    vertical = "writes" if by_kind.get("generation") else "reads"
    return drawings.plane(points, across="embeds", up=vertical)


def _settings(models: Sequence[Outcome]) -> list[tuple[str, list[str]]]:
    """Return the rows of the table of models: a name, and a value for each model."""
    keys = dict.fromkeys(key for model in models for key in model.about)
    return [
        ("kind", [model.kind for model in models]),
        *(
            (words.label(key), [words.setting(key, m.about.get(key)) for m in models])
            for key in keys
        ),
        ("digest", [model.digest[:12] for model in models]),
    ]


def _made_with(report: Report) -> list[tuple[str, list[str]]]:
    """Return the versions of the libraries and the properties of the machine, as text."""
    return [
        (
            name.capitalize(),
            [
                f"{words.label(key)} {words.setting(key, value)}"
                for key, value in report.about.get(name, {}).items()
            ],
        )
        for name in ("versions", "machine")
    ]
