"""Conversion of lm-eval's results: the main score, the others, and the scores of single rows.

lm-eval returns the results of a task under keys ``metric,filter``; :func:`result` converts them to
the :class:`TaskResult` of the report. ``lm_eval_run.py`` calls it for each task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isclose, isfinite
from typing import Any

from gritlm.errors import InputError, ModelError
from gritlm.evaluation import metrics
from gritlm.evaluation.results import TaskResult

# Main metric of a task that names none, in order of preference.
PREFERRED = ("acc_norm", "acc", "exact_match", "em", "f1")


@dataclass(frozen=True)
class Figure:
    """Metric of filtered answers; lm-eval writes ``exact_match,strict-match``.

    Attributes:
        metric: name of the metric.
        filter: name of the filter; ``none`` for unfiltered answers.
    """

    metric: str
    filter: str

    @property
    def name(self) -> str:
        """Name in the report."""
        return self.metric if self.filter == "none" else f"{self.metric},{self.filter}"


def result(
    name: str, tasks: Sequence[Any], found: Mapping[str, Any], *, seconds: float, harness: str
) -> TaskResult:
    """Return the result of a task, or of the tasks of a group, whose rows have equal weights.

    Args:
        name: name of the task or group.
        tasks: tasks of lm-eval.
        found: return value of lm-eval's ``evaluate``, with samples.
        seconds: wall-clock seconds of the task.
        harness: name and version of lm-eval.

    Raises:
        InputError: if the tasks of a group have different main metrics.
        ModelError: if the main score is not finite, or is outside 0 to 1 for a share.
    """
    names = [task.task_name for task in tasks]
    samples = [_by_filter(found["samples"][each]) for each in names]
    directions: Mapping[str, Mapping[str, bool | None]] = found.get("higher_is_better", {})
    better = {k: v for each in names for k, v in directions.get(each, {}).items()}
    mains = {
        _main(task, list(found["results"][each]), better)
        for task, each in zip(tasks, names, strict=True)
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
    value = figures.pop(main)
    if not _is_sound(main.metric, value):
        raise ModelError(
            f"{name}: {main.name} is {value:g}; expected a number"
            + (" from 0 to 1, as of all shares" if metrics.is_percentage(main.metric) else "")
        )
    score = _shown(main.metric, value)
    return TaskResult(
        task=name,
        half="generation",
        kind=str(tasks[0].OUTPUT_TYPE),
        metric=metrics.named(main.name, higher_is_better=better.get(main.metric)),
        score=score,
        count=sum(counts),
        seconds=seconds,
        items=_items(rows, main.metric, score),
        details={
            figure.name: _shown(figure.metric, value)
            for figure, value in figures.items()
            if _is_sound(figure.metric, value)
        },
        harness=harness,
    )


def _by_filter(samples: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Return the rows of each filter, in order."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for sample in sorted(samples, key=lambda sample: sample["doc_id"]):
        found.setdefault(sample["filter"], []).append(sample)
    return found


def _main(task: Any, keys: Sequence[str], better: Mapping[str, bool | None]) -> Figure:
    """Return the main metric of a task.

    It is the one that the task's ``metadata: main`` names, else the first of ``PREFERRED``, else
    the first share, else the first metric.

    Args:
        task: task of lm-eval.
        keys: keys of the task's results, ``metric,filter``.
        better: metric -> whether a higher value is better, as reported by lm-eval.

    Raises:
        InputError: if the task has no metric, or none with the name in ``metadata: main``.
    """
    figures = _parse_keys(keys)
    main = (task.get_config("metadata") or {}).get("main")
    if main is not None:
        for figure in figures:
            if main in (figure.metric, figure.name):
                return figure
        known = ", ".join(figure.name for figure in figures)
        raise InputError(
            f"{task.task_name}: metadata says main: {main}; the task has {known or 'no figure'}"
        )
    if not figures:
        raise InputError(f"{task.task_name}: lm-eval gave no figure; expected a metric_list")
    by_metric = {figure.metric: figure for figure in reversed(figures)}
    shares = [f for f in figures if metrics.counts(f.metric) and better.get(f.metric) is not False]
    preferred = [by_metric[metric] for metric in PREFERRED if metric in by_metric]
    return [*preferred, *shares, *figures][0]


def _parse_keys(keys: Sequence[str]) -> list[Figure]:
    """Return the metrics among the keys of a result; standard errors are left out."""
    pairs = [key.rpartition(",")[::2] for key in keys if "," in key]
    return [Figure(*pair) for pair in pairs if not pair[0].endswith("_stderr")]


def _figures(results: Sequence[Mapping[str, Any]], counts: Sequence[int]) -> dict[Figure, float]:
    """Return the mean of each metric that all tasks have, weighted by the rows of the tasks."""
    common = [f for f in _parse_keys(list(results[0])) if all(_key(f) in each for each in results)]
    return {
        figure: sum(
            float(each[_key(figure)]) * count for each, count in zip(results, counts, strict=True)
        )
        / sum(counts)
        for figure in common
    }


def _key(figure: Figure) -> str:
    return f"{figure.metric},{figure.filter}"


def _is_sound(metric: str, value: float) -> bool:
    """Return whether a value is finite and, for a share or correlation, from -1 to 1."""
    return isfinite(value) and (not metrics.is_percentage(metric) or -1 <= value <= 1)


def _shown(metric: str, value: float) -> float:
    """Return a share in percent, and any other value as it is."""
    return 100 * value if metrics.is_percentage(metric) else value


def _items(
    rows: Sequence[Mapping[str, Any]], metric: str, score: float
) -> tuple[float, ...] | None:
    """Return the score of each row; None unless the main score is their mean."""
    values = [row.get(metric) for row in rows]
    if not metrics.is_percentage(metric) or not all(
        isinstance(value, int | float) and 0 <= value <= 1 for value in values
    ):
        return None
    items = tuple(float(value) for value in values if value is not None)
    return items if isclose(100 * sum(items) / len(items), score, abs_tol=1e-6) else None
