"""Local folders as tasks of mteb, with their data in memory."""

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
class _TaskType:
    """Definition of a type of task in mteb.

    Attributes:
        base: mteb's class of tasks.
        score: main metric.
        category: mteb's category: ``t2t`` (text to text) or ``t2c`` (text to category).
        data: function of folder, limit and collector of unusable rows that returns the dataset in
            the format of the class.
        settings: attributes of the class that differ from its defaults.
    """

    base: type[AbsTask]
    score: str
    category: str
    data: Callable[[Path, int | None, BadRows], Any]
    settings: Mapping[str, Any]


def make(task: Task, limit: int | None = None, bad: BadRows | None = None) -> AbsTask:
    """Return a local task as a task of mteb, with its rows read and checked.

    Args:
        task: the local task.
        limit: number of rows to measure on; for retrieval, number of queries, with all passages.
            None for all.
        bad: collector of unusable rows; if None, the first one raises.

    Raises:
        InputError: for a type without a class in mteb, and for files in the wrong layout, with
            ``file:line`` and the column.
    """
    task_type = TASK_TYPES[choice(task.type, TASK_TYPES, name=f"{task.folder}: type")]
    attributes = {"metadata": _metadata(task, task_type), **task_type.settings}
    data = task_type.data(task.folder, limit, BadRows() if bad is None else bad)
    mteb_task = type(f"Local{task.type}", (task_type.base,), attributes)()
    mteb_task.dataset = data
    mteb_task.data_loaded = True
    return mteb_task


def _metadata(task: Task, task_type: _TaskType) -> TaskMetadata:
    return TaskMetadata.model_validate(
        {
            "name": task.name,
            "description": task.description or task.name,
            "dataset": {"path": str(task.folder), "revision": "local"},
            "type": task.type,
            "category": task_type.category,
            "eval_langs": [f"{task.language}-Zyyy"],  # script unknown, and not needed
            "main_score": task_type.score,
        }
    )


def _pairs(
    folder: Path, limit: int | None, column: str, expected: rows.Column, bad: BadRows
) -> list[TaskRow]:
    columns = {"sentence1": rows.TEXT, "sentence2": rows.TEXT, column: expected}
    found = rows.read(folder / TEST, columns, bad)[:limit]
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
    columns = {"text": rows.TEXT, "label": rows.LABEL}
    paths = folder / TRAIN, folder / TEST
    train, test = (rows.read(path, columns, bad) for path in paths)
    train = labels.of_one_kind(train, paths[0], bad)
    ids = labels.numbered(train)
    test = labels.known(test, ids, train=paths[0], file=paths[1], bad=bad)
    return DatasetDict(train=_label_table(train, ids), test=_label_table(test[:limit], ids))


def _clustering(folder: Path, limit: int | None, bad: BadRows) -> DatasetDict:
    every = rows.read(folder / TEST, {"text": rows.TEXT, "label": rows.LABEL}, bad)
    found = labels.of_one_kind(every, folder / TEST, bad)[:limit]
    return DatasetDict(test=_label_table(found, labels.numbered(found)))


def _label_table(found: Sequence[TaskRow], ids: Mapping[str | int, int]) -> Dataset:
    return Dataset.from_dict(
        {"text": [row["text"] for row in found], "label": [ids[row["label"]] for row in found]}
    )


TASK_TYPES: Mapping[str, _TaskType] = {
    "STS": _TaskType(AbsTaskSTS, "cosine_spearman", "t2t", _sts, {}),
    "PairClassification": _TaskType(
        AbsTaskPairClassification,
        "cosine_ap",
        "t2t",
        _pair_classification,
        {"label_column_name": "label"},
    ),
    "Classification": _TaskType(QuickClassification, "accuracy", "t2c", _classification, {}),
    "Clustering": _TaskType(
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
    "Retrieval": _TaskType(AbsTaskRetrieval, "ndcg_at_10", "t2t", passages.retrieval, {}),
    "Reranking": _TaskType(AbsTaskRetrieval, "map_at_1000", "t2t", passages.reranking, {}),
}
