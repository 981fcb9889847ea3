"""Measuring of the model before and after, and the report of both."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from gritlm import atomic
from gritlm.adapt import report_tasks
from gritlm.adapt.config import AdaptConfig
from gritlm.adapt.run_folder import RunFolder
from gritlm.adapt.verdict import Difference, Verdict, judge
from gritlm.evaluation import harnesses, kinds
from gritlm.evaluation.bootstrap import Estimate
from gritlm.evaluation.cache import ResultCache
from gritlm.evaluation.kinds import MeasureOptions
from gritlm.evaluation.models import find_models
from gritlm.evaluation.outcome import Report
from gritlm.evaluation.rag import measure as rag
from gritlm.evaluation.report.write import write_report
from gritlm.evaluation.results import Kind, TaskResult
from gritlm.evaluation.run import Step, evaluate
from gritlm.evaluation.runner import RunnerOptions
from gritlm.evaluation.tasks import discovery
from gritlm.evaluation.tasks.discovery import ChosenTask
from gritlm.evaluation.tasks.suites import SAMPLES, SuitePlan, make_plan
from gritlm.evaluation.tasks.task import Task
from gritlm.lm.gritlm import GritLM

VERDICT = "verdict.json"
REPORT = "report"  # folder in the run's folder
RESULTS = "results"  # folder of results, so that a stopped report goes on
BEFORE = "before"
AFTER = "adapted"
_SETTINGS = ("fresh", "cached", "cached causal")  # of answers from passages


def general_tasks(config: AdaptConfig) -> list[ChosenTask]:
    """Return the general tasks, checked before the run begins.

    Raises:
        InputError: for an unknown task, or a folder in the wrong layout.
        MissingExtraError: without a library that measuring needs.
    """
    harnesses.require("embedding")
    plans = []
    if config.general:
        plans.append(make_plan("full", tasks=config.general, data=SAMPLES))
    if config.general_data is not None:
        plans.append(make_plan("full", data=Path(config.general_data)))
    tasks = [chosen for plan in plans for chosen in plan.tasks]
    for kind in {chosen.kind for chosen in tasks}:
        harnesses.require(kind)
    return tasks


def measure(
    config: AdaptConfig,
    folder: RunFolder,
    *,
    report: Callable[[str], None],
    progress: bool | None = None,
) -> tuple[Report, Verdict]:
    """Measure both models on all tasks; write the report and the verdict.

    Args:
        config: settings of the run.
        folder: folder of the run, with the adapter and the tasks.
        report: callback for lines of the log.
        progress: show progress bars.

    Raises:
        KeyboardInterrupt: if ctrl-C ended the measuring; the results so far are kept.
    """
    own = [discovery.chosen(task) for task in _own_tasks(folder)]
    plan = SuitePlan("adapt", (*own, *general_tasks(config)), limit=config.report_limit)
    models = find_models([f"{BEFORE}={config.model}", f"{AFTER}={folder.root}"])

    def watch(step: Step) -> None:
        if step.done is None:
            report(f"measuring {step.number} of {step.total}: {step.task} ({step.model})")

    found = evaluate(
        models,
        plan,
        cache=ResultCache(folder.path(RESULTS)),
        options=RunnerOptions(device=config.device, progress=bool(progress)),
        measures=_measures(),
        command=f"gritlm adapt {' '.join(config.documents)} --to {config.to}",
        watch=watch,
    )
    if found.stopped:
        raise KeyboardInterrupt
    verdict = judge(found)
    write_report(found, folder.root / REPORT)
    with atomic.replacing(folder.path(VERDICT)) as unfinished:
        unfinished.write_text(json.dumps(asdict(verdict), indent=2) + "\n", encoding="utf-8")
    return found, verdict


def read_verdict(folder: RunFolder) -> Verdict:
    """Return the verdict of a run whose report has finished before."""
    values = json.loads(folder.path(VERDICT).read_text(encoding="utf-8"))
    found = tuple(
        Difference(**{**each, "estimate": Estimate(**each["estimate"])})
        for each in values["differences"]
    )
    return Verdict(values["decision"], values["sentence"], found)


def counts_of(report: Report) -> dict[str, int]:
    """Return the numbers of measured and skipped tasks, over both models."""
    return {
        "results": sum(len(model.results) for model in report.models),
        "skipped": sum(len(model.skipped) for model in report.models),
    }


def _own_tasks(folder: RunFolder) -> Sequence[Task]:
    at = folder.path(report_tasks.FOLDER)
    return discovery.local(at) if at.is_dir() else []


def _measures() -> Mapping[Kind, kinds.Measure]:
    """Return the usual functions; answers are measured in the settings that are compared."""
    return {**kinds.measures(), "rag": _answers}


def _answers(model: GritLM, task: Task | str, how: MeasureOptions) -> Sequence[TaskResult]:
    assert isinstance(task, Task), "rag tasks are always local"
    return rag.measure(model, task, limit=how.limit, settings=_SETTINGS, skip_bad_rows=how.skip_bad)
