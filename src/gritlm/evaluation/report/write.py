"""Writing of the three report files, the last step of an evaluation."""

from __future__ import annotations

import os
from pathlib import Path

from gritlm import atomic
from gritlm.errors import InputError
from gritlm.evaluation.outcome import Report
from gritlm.evaluation.report import as_json, markdown, page, view
from gritlm.evaluation.report.view import ReportSection


def require_folder(folder: Path) -> None:
    """Check that a report can be written to a folder, without creating it.

    The command ``gritlm eval`` calls it before it measures anything.

    Raises:
        InputError: if the folder, or the nearest existing folder above it, is not writable.
    """
    path = folder.absolute()
    try:
        nearest = next(each for each in (path, *path.parents) if each.exists())
    except OSError as error:
        raise InputError(f"--output {folder}: {error.strerror}; name another folder") from None
    if not nearest.is_dir():
        raise InputError(f"--output {folder}: {nearest} is no folder; name another one")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"--output {folder}: {nearest} may not be written to; name another folder")


def write_report(
    report: Report, folder: Path, sections: list[ReportSection] | None = None
) -> list[Path]:
    """Write ``report.json``, ``report.md`` and ``report.html``, and return their paths.

    Each file is replaced atomically.

    Args:
        report: report to write, from :func:`~gritlm.evaluation.evaluate`.
        folder: folder of the files, created if needed.
        sections: sections of the report, if already computed: the bootstrap takes seconds. None
            to compute them.

    Returns:
        The paths of the files, in the order above.

    Raises:
        OSError: if a file cannot be written.
    """
    sections = view.sections(report) if sections is None else sections
    texts = {
        "report.json": as_json.text(report, sections),
        "report.md": markdown.text(report, sections),
        "report.html": page.text(report, sections),
    }
    for name, text in texts.items():
        with atomic.replacing(folder / name) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    return [folder / name for name in texts]
