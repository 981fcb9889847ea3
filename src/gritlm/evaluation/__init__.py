"""Evaluation: embedding, generation and RAG of one or several models in one report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gritlm import lazy

if TYPE_CHECKING:
    from gritlm.evaluation.cache import ResultCache
    from gritlm.evaluation.models import find_models
    from gritlm.evaluation.outcome import Report
    from gritlm.evaluation.report.write import write_report
    from gritlm.evaluation.run import evaluate
    from gritlm.evaluation.runner import RunnerOptions
    from gritlm.evaluation.tasks.suites import make_plan

__all__ = [
    "Report",
    "ResultCache",
    "RunnerOptions",
    "evaluate",
    "find_models",
    "make_plan",
    "write_report",
]

_HOMES = {
    "Report": "gritlm.evaluation.outcome",
    "ResultCache": "gritlm.evaluation.cache",
    "RunnerOptions": "gritlm.evaluation.runner",
    "evaluate": "gritlm.evaluation.run",
    "find_models": "gritlm.evaluation.models",
    "make_plan": "gritlm.evaluation.tasks.suites",
    "write_report": "gritlm.evaluation.report.write",
}

__getattr__, __dir__ = lazy.names(__name__, _HOMES)
