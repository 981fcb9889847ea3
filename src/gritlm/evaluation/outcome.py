"""What an evaluation comes to, before it is written down."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gritlm.evaluation.results import Half, TaskResult
from gritlm.evaluation.tasks.task import Task

HALVES: tuple[Half, ...] = ("embedding", "generation", "rag")
TITLES: dict[Half, str] = {
    "embedding": "Embedding",
    "generation": "Generation",
    "rag": "Answering from passages",
}


@dataclass(frozen=True)
class SkippedTask:
    """A task that was not measured, and why."""

    model: str
    half: Half
    task: str
    reason: str


@dataclass(frozen=True)
class Outcome:
    """One model with its results.

    Attributes:
        kind: ``GritLM`` or ``sentence-transformers``.
        digest: of its weights.
        about: its settings.
        computed: tasks that were measured now.
        known: names of the results that come from an earlier run, with the times of that run.
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
        return next((each for each in self.results if each.task == task), None)

    def half(self, half: Half) -> tuple[TaskResult, ...]:
        return tuple(each for each in self.results if each.half == half)


@dataclass(frozen=True)
class Report:
    """Several models on the same tasks; differences are to the first of them.

    Attributes:
        suite: name of the suite; ``tasks`` where they were named.
        limit: rows of each task; None for all.
        about: date, command, versions, machine.
        tasks: the local tasks among those measured, for their descriptions.
        stopped: whether it was interrupted; what is missing is among the skipped.
    """

    models: tuple[Outcome, ...]
    suite: str
    limit: int | None
    about: dict[str, Any] = field(default_factory=dict)
    tasks: tuple[Task, ...] = ()
    stopped: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether nothing could be measured."""
        return not any(model.results for model in self.models)

    def half(self, half: Half) -> list[TaskResult]:
        """One result of each task of a half that a model has, in the order of measuring."""
        found: dict[str, TaskResult] = {}
        for result in (result for model in self.models for result in model.half(half)):
            found.setdefault(result.task, result)
        return list(found.values())
