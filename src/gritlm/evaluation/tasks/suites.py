"""Which tasks are measured when nobody names them one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gritlm.errors import InputError, did_you_mean
from gritlm.evaluation.results import Half
from gritlm.evaluation.tasks import discovery
from gritlm.evaluation.tasks.discovery import ChosenTask, Hubs
from gritlm.evaluation.tasks.task import Task

SAMPLES = Path(__file__).parents[1] / "samples"
QUICK_ROWS = 50  # of each task, where the quick suite runs on whole sets


@dataclass(frozen=True)
class Suite:
    """Halves to measure, and the hubs' tasks where no folder is given.

    Attributes:
        hub: names that mteb and lm-eval know; without any, the samples of this package.
    """

    halves: tuple[Half, ...]
    hub: tuple[tuple[Half, str], ...] = ()


_EMBEDDING: tuple[tuple[Half, str], ...] = tuple(
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
_GENERATION: tuple[tuple[Half, str], ...] = tuple(
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
    "full": Suite(("embedding", "generation", "rag"), (*_EMBEDDING, *_GENERATION)),
}


@dataclass(frozen=True)
class SuitePlan:
    """What to measure.

    Attributes:
        suite: its name; ``tasks`` where they were named one by one.
        limit: rows of each task; None for all.
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
    """The tasks that the words of the command line mean.

    Args:
        tasks: names, instead of the suite.
        data: folder of local tasks, which then are all there is in the suite; without one these
            are the samples of this package.
        limit: rows of each task; the quick suite on a folder of yours takes the first 50.
        hubs: where names are looked up that are no local task.

    Raises:
        InputError: for an unknown suite or task, or a folder without a task for the suite.
    """
    if suite not in SUITES:
        raise InputError(f"--suite {suite!r} is unknown{did_you_mean(suite, SUITES)}")
    if tasks:
        return SuitePlan("tasks", tuple(discovery.named(tasks, _local(data), hubs or {})), limit)
    chosen = SUITES[suite]
    if data is None and chosen.hub:
        samples = [
            discovery.chosen(t) for t in _of(_local(None), ("rag",)) if "rag" in chosen.halves
        ]
        hub = [ChosenTask(name, half, name) for half, name in chosen.hub]
        return SuitePlan(suite, (*hub, *samples), limit)
    found = _of(_local(data), chosen.halves)
    if not found:
        raise InputError(
            f"{data or SAMPLES}: no task of {' or '.join(chosen.halves)} in this folder; "
            f"--suite {suite} needs one"
        )
    rows = QUICK_ROWS if suite == "quick" and data is not None and limit is None else limit
    return SuitePlan(suite, tuple(map(discovery.chosen, found)), rows)


def _local(data: Path | None) -> list[Task]:
    return discovery.local(SAMPLES if data is None else data)


def _of(tasks: Sequence[Task], halves: Sequence[Half]) -> list[Task]:
    """The tasks of some halves, half by half."""
    return [task for half in halves for task in tasks if task.half == half]
