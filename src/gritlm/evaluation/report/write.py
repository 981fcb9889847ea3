"""The three files of a report, each written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from gritlm import runtime
from gritlm.errors import InputError
from gritlm.evaluation.outcome import Report
from gritlm.evaluation.report import as_json, markdown, page, view
from gritlm.evaluation.report.view import ReportSection


def require_folder(folder: Path) -> None:
    """Whether a report can be written there, asked before anything is measured or made.

    Raises:
        InputError: when it cannot.
    """
    place = folder.absolute()
    try:
        there = next(each for each in (place, *place.parents) if each.exists())
    except OSError as error:
        raise InputError(f"--output {folder}: {error.strerror}; name another folder") from None
    if not there.is_dir():
        raise InputError(f"--output {folder}: {there} is no folder; name another one")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"--output {folder}: {there} may not be written to; name another folder")


def write_report(
    report: Report, folder: Path, sections: list[ReportSection] | None = None
) -> list[Path]:
    """Write ``report.json``, ``report.md`` and ``report.html``, and return their paths.

    Args:
        sections: of the report, where they are known already; they take a while.
    """
    sections = view.sections(report) if sections is None else sections
    made = {
        "report.json": as_json.text(report, sections),
        "report.md": markdown.text(report, sections),
        "report.html": page.text(report, sections),
    }
    for name, text in made.items():
        with runtime.replacing(folder / name) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    return [folder / name for name in made]
