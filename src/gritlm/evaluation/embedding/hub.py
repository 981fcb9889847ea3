"""mteb's own tasks by name: found, loaded, cut to a few rows."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

import mteb
from datasets import Dataset
from mteb.abstasks import AbsTask, AbsTaskRetrieval
from mteb.abstasks.aggregated_task import AbsTaskAggregate
from mteb.abstasks.clustering import AbsTaskClustering
from mteb.abstasks.pair_classification import AbsTaskPairClassification
from mteb.get_tasks import TASK_LIST

from gritlm.errors import InputError
from gritlm.evaluation.unreachable import DataUnreachableError


def names() -> list[str]:
    """mteb's tasks that are made of text alone, sorted."""
    return sorted(task.metadata.name for task in TASK_LIST if task.metadata.modalities == ["text"])


def load(name: str, limit: int | None = None) -> AbsTask:
    """A task with its data.

    Args:
        limit: the first so many rows of each part that is measured; of retrieval queries, with
            all passages.

    Raises:
        InputError: for a name mteb does not know, with the nearest ones; for a task of images or
            sound.
        DataUnreachableError: when its data cannot be fetched.
    """
    task = _find(name)
    for part in parts(task):
        try:
            part.load_data()
        except Exception as error:  # those of the hub's client, of datasets, of a task's own code
            raise DataUnreachableError(name, error) from error
        _unpack(part)
        if limit is not None:
            _cut(part, limit)
    return task


def parts(task: AbsTask) -> list[AbsTask]:
    """The tasks that a collected one (``CQADupstackRetrieval``) is made of; else itself."""
    return list(task.tasks) if isinstance(task, AbsTaskAggregate) else [task]


def splits(task: AbsTask) -> Iterator[tuple[str, str, Any, Any]]:
    """Subset, split, what holds the splits, and the data, of all that is measured."""
    dataset: Any = task.dataset
    for subset in task.hf_subsets:
        holder = dataset.get(subset, dataset)
        for split in task.eval_splits:
            yield subset, split, holder, holder[split]


def _find(name: str) -> AbsTask:
    try:
        task = mteb.get_task(name)
    except KeyError:
        near = get_close_matches(name, names(), n=3)
        hint = f"did you mean {', '.join(map(repr, near))}?" if near else "nothing is near it"
        raise InputError(f"mteb has no task {name!r}; {hint}") from None
    if task.modalities != ["text"]:
        raise InputError(f"{name} is made of {', '.join(task.modalities)}; expected text alone")
    return task


def _unpack(task: AbsTask) -> None:
    """Older forms of data, as mteb itself reads them, in the present one."""
    if isinstance(task, AbsTaskRetrieval):
        task.convert_v1_dataset_format_to_v2(num_proc=None)
    if isinstance(task, AbsTaskPairClassification):
        for _, split, holder, data in splits(task):
            if len(data) == 1:  # all pairs in one row
                holder[split] = Dataset.from_dict(data[0])


def _cut(task: AbsTask, limit: int) -> None:
    for _, split, holder, data in splits(task):
        if isinstance(task, AbsTaskRetrieval):
            judged = [
                i
                for i, query in enumerate(data["queries"]["id"])
                if data["relevant_docs"].get(query)
            ]
            queries = data["queries"].select(judged[:limit])
            kept = {query: data["relevant_docs"][query] for query in queries["id"]}
            data["queries"], data["relevant_docs"] = queries, kept
        elif isinstance(data, Dataset):
            holder[split] = data.select(range(min(limit, len(data))))
        else:
            raise InputError(f"{task.metadata.name}: its rows cannot be cut; leave limit out")
    if isinstance(task, AbsTaskClustering):  # of the rows that are left all are embedded
        task.max_fraction_of_documents_to_embed = task.max_document_to_embed = None
