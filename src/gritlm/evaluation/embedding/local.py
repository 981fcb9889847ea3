"""Local folders -> tasks of mteb, with their data in memory: mteb does the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from mteb.abstasks import AbsTask, AbsTaskRetrieval
from mteb.abstasks.clustering import AbsTaskClustering
from mteb.abstasks.pair_classification import AbsTaskPairClassification
from mteb.abstasks.sts import AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata

from gritlm.errors import InputError, choice
from gritlm.evaluation.embedding import labels, passages, rows
from gritlm.evaluation.embedding.quick import QuickClassification
from gritlm.evaluation.embedding.rows import TaskRow
from gritlm.evaluation.tasks.bad_rows import BadRows
from gritlm.evaluation.tasks.task import Task

TEST = "test.jsonl"
TRAIN = "train.jsonl"


@dataclass(frozen=True)
class _Kind:
    """What mteb makes of a type.

    Attributes:
        base: its class of tasks.
        score: the main figure.
        category: text to text, or text to category.
        data: folder, limit and bad rows -> data set as the class wants it.
        settings: attributes of the class that differ from its defaults.
    """

    base: type[AbsTask]
    score: str
    category: str
    data: Callable[[Path, int | None, BadRows], Any]
    settings: Mapping[str, Any]


def make(task: Task, limit: int | None = None, bad: BadRows | None = None) -> AbsTask:
    """Return the task as one of mteb's, its data read and checked.

    Args:
        limit: the first so many rows to measure on; of retrieval queries, with all passages.
        bad: receives the rows that cannot be used; None: the first one raises.

    Raises:
        InputError: for a type mteb's classes do not cover here, and for files in the wrong layout,
            as ``file:line`` with the column.
    """
    kind = KINDS[choice(task.type, KINDS, name=f"{task.folder}: type")]
    attributes = {"metadata": _metadata(task, kind), **kind.settings}
    data = kind.data(task.folder, limit, BadRows() if bad is None else bad)
    made = type(f"Local{task.type}", (kind.base,), attributes)()
    made.dataset = data
    made.data_loaded = True
    return made


def _metadata(task: Task, kind: _Kind) -> TaskMetadata:
    return TaskMetadata.model_validate(
        {
            "name": task.name,
            "description": task.description or task.name,
            "dataset": {"path": str(task.folder), "revision": "local"},
            "type": task.type,
            "category": kind.category,
            "eval_langs": [f"{task.language}-Zyyy"],  # no script is told, and none is needed
            "main_score": kind.score,
        }
    )


def _pairs(
    folder: Path, limit: int | None, column: str, kind: rows.Column, bad: BadRows
) -> list[TaskRow]:
    wanted = {"sentence1": rows.TEXT, "sentence2": rows.TEXT, column: kind}
    found = rows.read(folder / TEST, wanted, bad)[:limit]
    if len({row[column] for row in found}) < 2:
        raise InputError(
            f"{folder / TEST}: all {len(found)} rows have {column} {found[0][column]!r}; a score "
            "needs two different ones" + ("" if limit is None else f", and limit={limit} cut them")
        )
    return found


def _table(found: Sequence[TaskRow], *columns: str) -> Dataset:
    return Dataset.from_dict({column: [row[column] for row in found] for column in columns})


def _sts(folder: Path, limit: int | None, bad: BadRows) -> DatasetDict:
    found = _pairs(folder, limit, "score", rows.NUMBER, bad)
    return DatasetDict(test=_table(found, "sentence1", "sentence2", "score"))


def _pair_classification(folder: Path, limit: int | None, bad: BadRows) -> DatasetDict:
    found = _pairs(folder, limit, "label", rows.BINARY, bad)
    return DatasetDict(test=_table(found, "sentence1", "sentence2", "label"))


def _classification(folder: Path, limit: int | None, bad: BadRows) -> DatasetDict:
    wanted = {"text": rows.TEXT, "label": rows.LABEL}
    paths = folder / TRAIN, folder / TEST
    train, test = (rows.read(path, wanted, bad) for path in paths)
    train = labels.of_one_kind(train, paths[0], bad)
    ids = labels.numbered(train)
    test = labels.known(test, ids, train=paths[0], file=paths[1], bad=bad)
    return DatasetDict(train=_labelled(train, ids), test=_labelled(test[:limit], ids))


def _clustering(folder: Path, limit: int | None, bad: BadRows) -> DatasetDict:
    every = rows.read(folder / TEST, {"text": rows.TEXT, "label": rows.LABEL}, bad)
    found = labels.of_one_kind(every, folder / TEST, bad)[:limit]
    return DatasetDict(test=_labelled(found, labels.numbered(found)))


def _labelled(found: Sequence[TaskRow], ids: Mapping[str | int, int]) -> Dataset:
    return Dataset.from_dict(
        {"text": [row["text"] for row in found], "label": [ids[row["label"]] for row in found]}
    )


KINDS: Mapping[str, _Kind] = {
    "STS": _Kind(AbsTaskSTS, "cosine_spearman", "t2t", _sts, {}),
    "PairClassification": _Kind(
        AbsTaskPairClassification,
        "cosine_ap",
        "t2t",
        _pair_classification,
        {"label_column_name": "label"},
    ),
    "Classification": _Kind(QuickClassification, "accuracy", "t2c", _classification, {}),
    "Clustering": _Kind(
        AbsTaskClustering,
        "v_measure",
        "t2c",
        _clustering,
        {
            "input_column_name": "text",
            "label_column_name": "label",
            "max_fraction_of_documents_to_embed": None,
        },
    ),
    "Retrieval": _Kind(AbsTaskRetrieval, "ndcg_at_10", "t2t", passages.retrieval, {}),
    "Reranking": _Kind(AbsTaskRetrieval, "map_at_1000", "t2t", passages.reranking, {}),
}
