"""Outcome of an evaluation: the results of each model, and the report of all models."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gritlm.evaluation.results import Kind, TaskResult
from gritlm.evaluation.tasks.task import Task

KINDS: tuple[Kind, ...] = ("embedding", "generation", "rag", "senses")
TITLES: dict[Kind, str] = {
    "embedding": "Embedding",
    "generation": "Generation",
    "rag": "Answering from passages",
    "senses": "Images and sound",
}


@dataclass(frozen=True)
class SkippedTask:
    """A task that was not measured.

    Attributes:
        model: name of the model.
        half: kind of the task (the key in ``report.json`` is ``half``).
        task: name of the task.
        reason: why the task was skipped.
    """

    model: str
    half: Kind
    task: str
    reason: str


@dataclass(frozen=True)
class Outcome:
    """Results of one model.

    Attributes:
        name: name of the model.
        kind: ``GritLM`` or ``sentence-transformers``.
        digest: digest of the model.
        about: settings of the model.
        results: results in the order of measuring.
        skipped: tasks that were not measured, with the reasons.
        computed: names of the tasks measured in this run.
        known: names of the results taken from an earlier run, with the times of that run.
    """

    name: str
    kind: str
    digest: str
    about: dict[str, Any]
    results: tuple[TaskResult, ...] = ()
    skipped: tuple[SkippedTask, ...] = ()
    computed: tuple[str, ...] = ()
    known: tuple[str, ...] = ()

    def result(self, task: str) -> TaskResult | None:
        """Return the result of a task; None if it was not measured."""
        return next((each for each in self.results if each.task == task), None)

    def results_of(self, kind: Kind) -> tuple[TaskResult, ...]:
        """Return the results of one kind, in the order of measuring."""
        return tuple(each for each in self.results if each.half == kind)


@dataclass(frozen=True)
class Report:
    """Results of several models on the same tasks; differences are to the first model.

    Attributes:
        models: results of each model.
        suite: name of the suite; ``tasks`` if the tasks were listed by name.
        limit: number of rows measured in each task; None for all.
        about: date, command, library versions and machine.
        tasks: local tasks that were measured, with their descriptions.
        stopped: whether the run was interrupted; tasks not measured by then are among the
            skipped ones.
    """

    models: tuple[Outcome, ...]
    suite: str
    limit: int | None
    about: dict[str, Any] = field(default_factory=dict)
    tasks: tuple[Task, ...] = ()
    stopped: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether there is no result at all."""
        return not any(model.results for model in self.models)

    def tasks_of(self, kind: Kind) -> list[TaskResult]:
        """Return a result of each task of one kind, from the first model that has the task."""
        found: dict[str, TaskResult] = {}
        for result in (result for model in self.models for result in model.results_of(kind)):
            found.setdefault(result.task, result)
        return list(found.values())
