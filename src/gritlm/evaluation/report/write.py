"""The three files of a report, each written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from gritlm import runtime
from gritlm.errors import InputError
from gritlm.evaluation.outcome import Report
from gritlm.evaluation.report import as_json, markdown, page, view
from gritlm.evaluation.report.view import Section


def require_folder(folder: Path) -> None:
    """Whether a report can be written there, asked before anything is measured.

    Raises:
        InputError: when it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output {folder}: {error.strerror}; name another folder") from None
    if not os.access(folder, os.W_OK):
        raise InputError(f"--output {folder} may not be written to; name another folder")


def write(report: Report, folder: Path, sections: list[Section] | None = None) -> list[Path]:
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
