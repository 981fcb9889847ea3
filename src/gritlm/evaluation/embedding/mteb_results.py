"""Conversion of mteb's results: the main score, a few others, and the scores of single rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

import mteb
import numpy as np
from mteb.abstasks import AbsTask, AbsTaskRetrieval
from mteb.abstasks.classification import AbsTaskClassification
from mteb.abstasks.pair_classification import AbsTaskPairClassification

from gritlm.errors import ModelError
from gritlm.evaluation.embedding import hub, items
from gritlm.evaluation.results import TaskResult

Heard = Callable[[], Mapping[str, Mapping[str, float]]]

# Scores of mteb that the report shows in addition to the main one, by type of task.
SHOWN = {
    "STS": ("cosine_pearson", "euclidean_spearman"),
    "Summarization": ("cosine_pearson",),
    "PairClassification": ("cosine_accuracy", "cosine_f1", "max_ap"),
    "Classification": ("f1", "f1_weighted"),
    "MultilabelClassification": ("f1", "lrap"),
    "Clustering": ("v_measure_std", "ami"),
    "Retrieval": ("mrr_at_10", "recall_at_10", "recall_at_100"),
    "Reranking": ("mrr_at_10", "ndcg_at_10"),
    "BitextMining": ("accuracy", "f1"),
}


def of(
    task: AbsTask, scores: Mapping[str, Any], heard: Heard, folder: Path, seconds: float
) -> TaskResult:
    """Return the result of a task that mteb has measured.

    Args:
        task: the task of mteb.
        scores: mteb's scores by split: a list with the scores of each subset.
        heard: function that returns the scores of each query, from :func:`items.listen`.
        folder: folder of mteb's predictions.
        seconds: wall-clock seconds of the task.

    Raises:
        ModelError: if the score is not finite. Identical vectors for all texts are no error:
            their order agrees with no other, so their correlation is 0.
    """
    metadata = task.metadata
    tables = {(split, table["hf_subset"]): table for split in scores for table in scores[split]}
    one = len(tables) == 1 and not task.is_aggregate
    pairs = _pairs(task, folder, next(iter(tables.values()))) if one else None
    score = float(np.mean([table["main_score"] for table in tables.values()]))
    if pairs is not None and not isfinite(score) and _is_no_order(pairs):
        score = 0.0
    if not isfinite(score):
        raise ModelError(
            f"{metadata.name}: {metadata.main_score} is no number; some vectors are no numbers, or "
            "all vectors or gold values of a part are the same"
        )
    return TaskResult(
        task=metadata.name,
        half="embedding",
        kind=metadata.type,
        metric=metadata.main_score,
        score=100 * score,
        count=sum(_rows(data) for part in hub.parts(task) for *_, data in hub.splits(part)),
        seconds=seconds,
        items=_items(task, heard, folder) if one else None,
        pairs=pairs,
        details=_details(metadata.type, tables, one),
        harness=f"mteb {mteb.__version__}",
    )


def _details(
    kind: str, tables: Mapping[tuple[str, str], Mapping[str, Any]], one: bool
) -> dict[str, float]:
    """Return other scores of a single subset, or the main score of each of several subsets."""
    if not one:
        return {
            f"{subset} {split}" if subset != "default" else split: 100 * table["main_score"]
            for (split, subset), table in tables.items()
        }
    (table,) = tables.values()
    known = {name: table.get(name) for name in SHOWN.get(kind, ())}
    return {
        name: 100 * value for name, value in known.items() if value is not None and isfinite(value)
    }


def _rows(data: Any) -> int:
    return len(data["queries"]) if isinstance(data, dict) else len(data)


def _items(task: AbsTask, heard: Heard, folder: Path) -> items.Items | None:
    subset, split, _, data = next(hub.splits(task))
    if isinstance(task, AbsTaskRetrieval):
        return items.of_queries(heard(), data["queries"]["id"], task.metadata.main_score)
    if isinstance(task, AbsTaskClassification) and task.metadata.main_score == "accuracy":
        predicted = items.predictions(folder, task, subset=subset, split=split)
        return items.of_classes(predicted, data[task.label_column_name])
    return None


def _pairs(task: AbsTask, folder: Path, table: Mapping[str, float]) -> items.Pairs | None:
    subset, split, _, data = next(hub.splits(task))
    if task.metadata.type == "STS" and task.metadata.main_score == "cosine_spearman":
        predicted = items.predictions(folder, task, subset=subset, split=split)
        return items.of_pairs(predicted["cosine_scores"], data["score"])
    if isinstance(task, AbsTaskPairClassification):
        predicted = items.predictions(folder, task, subset=subset, split=split)
        return items.of_ranking(predicted, data[task.label_column_name], table)
    return None


def _is_no_order(pairs: items.Pairs) -> bool:
    """Return whether a model gives all pairs the same finite value while the gold values differ."""
    values, gold = ({pair[side] for pair in pairs} for side in (0, 1))
    return len(values) == 1 and isfinite(values.pop()) and len(gold) > 1
