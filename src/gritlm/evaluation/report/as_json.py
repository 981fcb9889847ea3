"""``report.json``: all results, for programs."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from gritlm.evaluation.outcome import Outcome, Report
from gritlm.evaluation.report.view import ReportRow, ReportSection

VERSION = 1


def record(report: Report, sections: list[ReportSection]) -> dict[str, Any]:
    """Return the report as a JSON object; ``comparison`` holds the rows of the other two files."""
    return {
        "version": VERSION,
        "suite": report.suite,
        "limit": report.limit,
        "stopped": report.stopped,
        **report.about,
        "models": [_model(model) for model in report.models],
        "tasks": [
            {
                **{key: value for key, value in asdict(task).items() if key != "folder"},
                "folder": str(task.folder),
            }
            for task in report.tasks
        ],
        "comparison": {section.kind: _section(section, report) for section in sections},
    }


def text(report: Report, sections: list[ReportSection]) -> str:
    """Return the content of ``report.json``."""
    return json.dumps(record(report, sections), ensure_ascii=False) + "\n"


def _model(model: Outcome) -> dict[str, Any]:
    return {
        "name": model.name,
        "kind": model.kind,
        "digest": model.digest,
        "settings": model.about,
        "results": [asdict(result) for result in model.results],
        "skipped": [asdict(each) for each in model.skipped],
        "computed": list(model.computed),
        "known": list(model.known),
    }


def _section(section: ReportSection, report: Report) -> dict[str, Any]:
    names = [model.name for model in report.models]
    headline = section.headline
    return {
        "headline": None if headline is None else _row(headline, names),
        "groups": [_row(row, names) for row in section.groups],
        "tasks": [_row(row, names) for row in section.rows],
    }


def _row(row: ReportRow, names: list[str]) -> dict[str, Any]:
    return {
        "name": row.name,
        "kind": row.kind,
        "metric": row.metric,
        "count": row.count,
        "percent": row.share,
        "less_is_better": row.less,
        "left_out": list(row.left_out),
        "models": {
            name: {
                "score": None if cell.score is None else asdict(cell.score),
                "difference": None if cell.difference is None else asdict(cell.difference),
            }
            for name, cell in zip(names, row.cells, strict=True)
        },
    }
