"""What mteb computes on the way to a score: the figure of each row."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mteb.abstasks import AbsTask, AbsTaskRetrieval
from mteb.abstasks.classification import AbsTaskClassification
from mteb.abstasks.pair_classification import AbsTaskPairClassification
from mteb.abstasks.sts import AbsTaskSTS

Items = tuple[float, ...]
Pairs = tuple[tuple[float, float], ...]

# mteb's main figure -> what the library it ranks with calls it, query by query
_RANKED = {
    "ndcg_at_": "ndcg_cut_",
    "map_at_": "map_cut_",
    "recall_at_": "recall_",
    "precision_at_": "P_",
    "hit_rate_at_": "success_",
}

# How alike two texts are: mteb's name of a measure -> column of its predictions, and the sign that
# makes more of it more alike.
_LIKENESS = {
    "cosine": ("cosine_scores", 1),
    "similarity": ("similarity_scores", 1),
    "dot": ("dot_scores", 1),
    "euclidean": ("euclidean_distances", -1),
    "manhattan": ("manhattan_distances", -1),
}


def keeps_predictions(task: AbsTask) -> bool:
    """Whether the rows are read from what mteb writes to its folder of predictions."""
    return isinstance(task, AbsTaskSTS | AbsTaskClassification | AbsTaskPairClassification)


def listen(task: AbsTask) -> Callable[[], Mapping[str, Mapping[str, float]]]:
    """Have a retrieval task remember the figures of each query; call the result to get them.

    ``task_specific_scores`` is where mteb hands them to a task, for figures of its own.
    """
    heard: dict[str, Mapping[str, float]] = {}
    if not isinstance(task, AbsTaskRetrieval):
        return lambda: heard
    own = task.task_specific_scores

    def remember(scores: dict[str, dict[str, float]], *args: Any, **options: Any) -> Any:
        heard.update(scores)
        return own(scores, *args, **options)

    task.task_specific_scores = remember  # type: ignore[method-assign]
    return lambda: heard


def of_queries(
    heard: Mapping[str, Mapping[str, float]], queries: Sequence[str], metric: str
) -> Items | None:
    """The main figure of each query, in their order; None where mteb has none (``mrr``)."""
    start, _, depth = metric.rpartition("_")
    name = _RANKED.get(f"{start}_", "") + depth
    if not all(name in heard.get(query, {}) for query in queries):
        return None
    return tuple(float(heard[query][name]) for query in queries)


def of_classes(predictions: Sequence[Sequence[Any]], gold: Sequence[Any]) -> Items | None:
    """Share of mteb's classifiers that are right, by row; None where each saw other rows."""
    if any(len(each) != len(gold) for each in predictions):
        return None
    return tuple(np.mean([np.equal(each, gold) for each in predictions], axis=0).tolist())


def of_ranking(
    said: Mapping[str, Sequence[float]], gold: Sequence[float], table: Mapping[str, float]
) -> Pairs | None:
    """Likeness and label of each pair, by the measure that mteb's main figure comes from.

    Args:
        said: the measures of each pair, as mteb wrote them.
        table: mteb's figures; the main one may be the highest average precision of all measures.

    Returns:
        None where the main figure is no average precision.
    """
    for measure, (column, sign) in _LIKENESS.items():
        if table.get(f"{measure}_ap") == table["main_score"]:
            return of_pairs([sign * value for value in said[column]], gold)
    return None


def of_pairs(cosines: Sequence[float], gold: Sequence[float]) -> Pairs:
    return tuple((float(one), float(other)) for one, other in zip(cosines, gold, strict=True))


def predictions(folder: Path, task: AbsTask, *, subset: str, split: str) -> Any:
    """What mteb wrote of a task."""
    file = folder / task.prediction_file_name
    return json.loads(file.read_text(encoding="utf-8"))[subset][split]
