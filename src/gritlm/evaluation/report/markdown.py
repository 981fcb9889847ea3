"""``report.md``: tables for terminals, mails and model cards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gritlm.evaluation.outcome import Report
from gritlm.evaluation.report import view, words
from gritlm.evaluation.report.view import ReportCell, ReportRow, ReportSection


def text(report: Report, sections: Sequence[ReportSection]) -> str:
    """Return the content of ``report.md``."""
    names = [model.name for model in report.models]
    lines = [f"# {', '.join(map(_plain, names))}", "", f"{words.subtitle(report)}.", ""]
    if any(section.headline for section in sections):
        lines += ["## Summary", "", *_table(names, _headlines(sections)), ""]
    for section in sections:
        rows = [*section.means, *section.rows]
        lines += [f"## {words.title(section)}", ""]
        lines += [*_table(names, [(row.name, words.kind(row), row) for row in rows]), ""]
        lines += [text for line in words.notes(section) for text in (line, "")]
    if skipped := view.reasons(report):
        lines += ["## Skipped", "", *map(_reason, skipped), ""]
    lines += ["## Models", "", *_models(report), "", "## Made with", "", *_made(report), ""]
    return "\n".join([*lines, *(line for note in words.NOTES for line in (note, ""))])


def _headlines(sections: Iterable[ReportSection]) -> list[tuple[str, str, ReportRow]]:
    return [
        (words.title(section), words.headline_name(section), section.headline)
        for section in sections
        if section.headline is not None
    ]


def _table(names: Sequence[str], rows: Iterable[tuple[str, str, ReportRow]]) -> list[str]:
    head = ["task", "what", *names]
    lines = [_line(head), _line(["---", "---", *("---:" for _ in names)])]
    for name, kind, row in rows:
        lines.append(_line([name, kind, *(_cell(cell, share=row.share) for cell in row.cells)]))
    return lines


def _cell(cell: ReportCell, *, share: bool) -> str:
    if cell.score is None:
        return words.MISSING
    score = words.with_interval(cell.score, share=share)
    if cell.difference is None:
        return score
    return f"{score} ({words.change(cell.difference, share=share)})"


def _reason(reason: view.Reason) -> str:
    return f"- {_plain(reason.model)}: {', '.join(map(_plain, reason.tasks))}: {reason.reason}"


def _models(report: Report) -> list[str]:
    keys = list(dict.fromkeys(key for model in report.models for key in model.about))
    lines = [_line(["", *(model.name for model in report.models)])]
    lines.append(_line(["---", *("---" for _ in report.models)]))
    lines.append(_line(["kind", *(model.kind for model in report.models)]))
    for key in keys:
        values = (words.setting(key, model.about.get(key)) for model in report.models)
        lines.append(_line([words.label(key), *values]))
    lines.append(_line(["digest", *(model.digest[:12] for model in report.models)]))
    return lines


def _made(report: Report) -> list[str]:
    about = report.about
    lines = [f"- command: `{about['command']}`"] if about.get("command") else []
    for name in ("versions", "machine"):
        values = (
            f"{words.label(key)} {words.setting(key, value)}"
            for key, value in about.get(name, {}).items()
        )
        lines.append(f"- {name}: {', '.join(values)}")
    return [*lines, f"- date: {about.get('date', '')}"]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(map(_plain, cells))} |"


def _plain(text: str) -> str:
    """Escape pipes and line breaks, which would end a cell of a table."""
    return " ".join(text.replace("|", "\\|").split())
