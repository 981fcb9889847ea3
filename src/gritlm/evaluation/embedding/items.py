"""Scores of single rows, taken from the intermediate results of mteb."""

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

# Prefix of mteb's main metric -> its name, query by query, in the library that mteb ranks with
_RANKED = {
    "ndcg_at_": "ndcg_cut_",
    "map_at_": "map_cut_",
    "recall_at_": "recall_",
    "precision_at_": "P_",
    "hit_rate_at_": "success_",
}

# mteb's name of a similarity measure -> column of its predictions, and the sign that turns it into
# a similarity.
_SIMILARITY = {
    "cosine": ("cosine_scores", 1),
    "similarity": ("similarity_scores", 1),
    "dot": ("dot_scores", 1),
    "euclidean": ("euclidean_distances", -1),
    "manhattan": ("manhattan_distances", -1),
}


def keeps_predictions(task: AbsTask) -> bool:
    """Return whether the scores of rows come from mteb's folder of predictions."""
    return isinstance(task, AbsTaskSTS | AbsTaskClassification | AbsTaskPairClassification)


def listen(task: AbsTask) -> Callable[[], Mapping[str, Mapping[str, float]]]:
    """Record the scores of each query of a retrieval task while mteb measures it.

    mteb passes them to ``task_specific_scores``, where a task may compute scores of its own.

    Returns:
        A function that returns the recorded scores: query -> metric -> score.
    """
    recorded: dict[str, Mapping[str, float]] = {}
    if not isinstance(task, AbsTaskRetrieval):
        return lambda: recorded
    own = task.task_specific_scores

    def record(scores: dict[str, dict[str, float]], *args: Any, **options: Any) -> Any:
        recorded.update(scores)
        return own(scores, *args, **options)

    task.task_specific_scores = record  # type: ignore[method-assign]
    return lambda: recorded


def of_queries(
    recorded: Mapping[str, Mapping[str, float]], queries: Sequence[str], metric: str
) -> Items | None:
    """Return the main score of each query, in order; None if mteb has no such score (``mrr``)."""
    start, _, depth = metric.rpartition("_")
    name = _RANKED.get(f"{start}_", "") + depth
    if not all(name in recorded.get(query, {}) for query in queries):
        return None
    return tuple(float(recorded[query][name]) for query in queries)


def of_classes(predictions: Sequence[Sequence[Any]], gold: Sequence[Any]) -> Items | None:
    """Return the share of mteb's classifiers that are right on each row.

    Returns:
        The shares; None if the classifiers were not tested on the same rows.
    """
    if any(len(each) != len(gold) for each in predictions):
        return None
    return tuple(np.mean([np.equal(each, gold) for each in predictions], axis=0).tolist())


def of_ranking(
    predicted: Mapping[str, Sequence[float]], gold: Sequence[float], table: Mapping[str, float]
) -> Pairs | None:
    """Return similarity and label of each pair, by the measure behind mteb's main score.

    Args:
        predicted: similarities of each pair by each measure, from mteb's predictions.
        gold: label of each pair.
        table: mteb's scores; the main one may be the highest average precision of all measures.

    Returns:
        The pairs; None if the main score is not an average precision.
    """
    for measure, (column, sign) in _SIMILARITY.items():
        if table.get(f"{measure}_ap") == table["main_score"]:
            return of_pairs([sign * value for value in predicted[column]], gold)
    return None


def of_pairs(cosines: Sequence[float], gold: Sequence[float]) -> Pairs:
    """Return the predicted and the gold value of each row."""
    return tuple((float(one), float(other)) for one, other in zip(cosines, gold, strict=True))


def predictions(folder: Path, task: AbsTask, *, subset: str, split: str) -> Any:
    """Return the predictions that mteb wrote for a subset and split of a task."""
    file = folder / task.prediction_file_name
    return json.loads(file.read_text(encoding="utf-8"))[subset][split]
