"""What lm-eval hands back -> our result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isclose
from typing import Any

from gritlm.errors import InputError
from gritlm.evaluation.results import TaskResult

# Figures that are no shares.
AS_THEY_ARE = {
    "perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "likelihood",
    "brier_score", "bleu", "chrf", "ter",
}  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """A metric behind a filter, as lm-eval names them: ``exact_match,strict-match``."""

    metric: str
    filter: str

    @property
    def name(self) -> str:
        return self.metric if self.filter == "none" else f"{self.metric},{self.filter}"


def result(
    name: str, tasks: Sequence[Any], found: Mapping[str, Any], *, seconds: float, harness: str
) -> TaskResult:
    """One result of one task, or of the tasks of a group, whose rows then count alike.

    Args:
        found: what lm-eval's ``evaluate`` returns, with samples.

    Raises:
        InputError: when the tasks of a group have no figure in common.
    """
    names = [task.task_name for task in tasks]
    samples = [_by_filter(found["samples"][each]) for each in names]
    mains = {
        _main(task, list(found["results"][each])) for task, each in zip(tasks, names, strict=True)
    }
    if len(mains) > 1:
        raise InputError(
            f"{name} is a group of tasks with different figures "
            f"({', '.join(sorted(main.name for main in mains))}); name the tasks one by one: "
            f"{', '.join(names)}"
        )
    main = mains.pop()
    counts = [len(next(iter(each.values()))) for each in samples]
    figures = _figures([found["results"][each] for each in names], counts)
    rows = [row for each in samples for row in each[main.filter]]
    score = figures.pop(main)
    return TaskResult(
        task=name, half="generation", kind=str(tasks[0].OUTPUT_TYPE), metric=main.name,
        score=score, count=sum(counts), seconds=seconds, items=_items(rows, main.metric, score),
        details={figure.name: value for figure, value in figures.items()}, harness=harness,
    )  # fmt: skip


def _by_filter(samples: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Rows as each filter read them, in their order."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for sample in sorted(samples, key=lambda sample: sample["doc_id"]):
        found.setdefault(sample["filter"], []).append(sample)
    return found


def _main(task: Any, keys: Sequence[str]) -> Figure:
    """What the task's ``metadata: main`` says, else acc_norm, else the first figure it has.

    Raises:
        InputError: when it has none of that name.
    """
    figures = _of(keys)
    said = (task.get_config("metadata") or {}).get("main")
    if said is not None:
        for figure in figures:
            if said in (figure.metric, figure.name):
                return figure
        known = ", ".join(figure.name for figure in figures)
        raise InputError(
            f"{task.task_name}: metadata says main: {said}; the task has {known or 'no figure'}"
        )
    return next((figure for figure in figures if figure.metric == "acc_norm"), figures[0])


def _of(keys: Sequence[str]) -> list[Figure]:
    pairs = [key.rpartition(",")[::2] for key in keys if "," in key]
    return [Figure(*pair) for pair in pairs if not pair[0].endswith("_stderr")]


def _figures(results: Sequence[Mapping[str, Any]], counts: Sequence[int]) -> dict[Figure, float]:
    """Means over the tasks, weighted by their rows, of the figures that all of them have."""
    common = [f for f in _of(list(results[0])) if all(_key(f) in each for each in results)]
    return {
        figure: sum(
            _scaled(figure.metric, float(each[_key(figure)])) * count
            for each, count in zip(results, counts, strict=True)
        )
        / sum(counts)
        for figure in common
    }


def _key(figure: Figure) -> str:
    return f"{figure.metric},{figure.filter}"


def _scaled(metric: str, value: float) -> float:
    """Percent, where the figure is a share."""
    return value if metric in AS_THEY_ARE or abs(value) > 1 else 100 * value


def _items(
    rows: Sequence[Mapping[str, Any]], metric: str, score: float
) -> tuple[float, ...] | None:
    """The figure of each row; None unless the score is their mean."""
    values = [row.get(metric) for row in rows]
    if not all(isinstance(value, int | float) and 0 <= value <= 1 for value in values):
        return None
    items = tuple(float(value) for value in values if value is not None)
    return items if isclose(100 * sum(items) / len(items), score, abs_tol=1e-6) else None
