"""Suites of tasks, and the plan of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gritlm.errors import InputError, did_you_mean
from gritlm.evaluation.results import Kind
from gritlm.evaluation.tasks import discovery
from gritlm.evaluation.tasks.discovery import ChosenTask, Hubs
from gritlm.evaluation.tasks.task import Task

SAMPLES = Path(__file__).parents[1] / "samples"
NAMED = "tasks"  # suite of tasks that were listed by name
QUICK_ROWS = 50  # rows of each task when the quick suite runs on a folder of the user


@dataclass(frozen=True)
class Suite:
    """Kinds of tasks to measure, with the hub tasks to use without a local folder.

    Attributes:
        kinds: kinds of the suite's tasks.
        hub: kind and name of tasks that mteb and lm-eval know; if empty, the suite uses the
            samples of this package.
    """

    kinds: tuple[Kind, ...]
    hub: tuple[tuple[Kind, str], ...] = ()


_EMBEDDING: tuple[tuple[Kind, str], ...] = tuple(
    ("embedding", name)
    for name in (
        "STSBenchmark",
        "SICK-R",
        "BIOSSES",
        "STS12",
        "STS15",
        "NFCorpus",
        "SciFact",
        "ArguAna",
        "SCIDOCS",
        "FiQA2018",
        "Banking77Classification",
        "TweetSentimentExtractionClassification",
        "TwentyNewsgroupsClustering.v2",
        "StackExchangeClustering.v2",
        "SprintDuplicateQuestions",
        "TwitterSemEval2015",
        "AskUbuntuDupQuestions",
    )
)
_GENERATION: tuple[tuple[Kind, str], ...] = tuple(
    ("generation", name)
    for name in (
        "ifeval",
        "gsm8k",
        "mmlu",
        "arc_easy",
        "arc_challenge",
        "piqa",
        "winogrande",
        "boolq",
        "lambada_openai",
    )
)

SUITES = {
    "quick": Suite(("embedding", "generation", "rag")),
    "embedding": Suite(("embedding",), _EMBEDDING),
    "generation": Suite(("generation",), _GENERATION),
    "rag": Suite(("rag",)),
    "senses": Suite(("senses",)),
    "full": Suite(("embedding", "generation", "rag", "senses"), (*_EMBEDDING, *_GENERATION)),
}


@dataclass(frozen=True)
class SuitePlan:
    """Tasks of an evaluation.

    Attributes:
        suite: name of the suite; ``tasks`` if the tasks were listed by name.
        tasks: tasks to measure, in order.
        limit: number of rows to measure in each task; None for all.
    """

    suite: str
    tasks: tuple[ChosenTask, ...]
    limit: int | None = None


def make_plan(
    suite: str = "quick",
    *,
    tasks: Sequence[str] = (),
    data: Path | None = None,
    limit: int | None = None,
    hubs: Hubs | None = None,
) -> SuitePlan:
    """Return the tasks of a suite, or some tasks by name.

    Args:
        suite: ``quick`` (the samples of this package), ``embedding``, ``generation``, ``rag``,
            ``senses`` or ``full``. The embedding, generation and full suites use tasks of mteb and
            lm-eval unless ``data`` is set.
        tasks: names of tasks to measure instead of a suite: local tasks, or those in ``hubs``.
        data: folder of local tasks; a suite then consists of the tasks in this folder. None for
            the samples of this package.
        limit: number of rows to measure in each task; None for all, and for the first 50 when the
            quick suite runs on ``data``.
        hubs: functions that list the tasks of mteb and lm-eval, from
            ``gritlm.evaluation.kinds.hubs()``; without them, ``tasks`` names local tasks only.

    Raises:
        InputError: if a suite or task is unknown, or the folder has no task for the suite.
    """
    if suite not in SUITES:
        raise InputError(f"--suite {suite!r} is unknown{did_you_mean(suite, SUITES)}")
    if tasks:
        return SuitePlan(NAMED, tuple(discovery.named(tasks, _local(data), hubs or {})), limit)
    chosen = SUITES[suite]
    if data is None and chosen.hub:
        samples = [
            discovery.chosen(t) for t in _of(_local(None), ("rag",)) if "rag" in chosen.kinds
        ]
        hub = [ChosenTask(name, kind, name) for kind, name in chosen.hub]
        return SuitePlan(suite, (*hub, *samples), limit)
    found = _of(_local(data), chosen.kinds)
    if not found:
        raise InputError(
            f"{data or SAMPLES}: no task of {' or '.join(chosen.kinds)} in this folder; "
            f"--suite {suite} needs one"
        )
    rows = QUICK_ROWS if suite == "quick" and data is not None and limit is None else limit
    return SuitePlan(suite, tuple(map(discovery.chosen, found)), rows)


def _local(data: Path | None) -> list[Task]:
    return discovery.local(SAMPLES if data is None else data)


def _of(tasks: Sequence[Task], kinds: Sequence[Kind]) -> list[Task]:
    """Return the tasks of some kinds, one kind after the other."""
    return [task for kind in kinds for task in tasks if task.half == kind]
