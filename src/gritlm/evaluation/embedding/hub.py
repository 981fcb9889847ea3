"""Tasks of mteb by name, with their data, optionally cut to the first rows.

Only tasks of mteb itself are here; ``local.py`` makes mteb tasks of local folders.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
from gritlm.evaluation import inputs
from gritlm.evaluation.harnesses import DataUnreachableError
from gritlm.evaluation.inputs import Inputs

_KINDS = {"text": "text", "image": "image", "audio": "sound"}  # mteb's modalities that are read


def names() -> dict[str, Inputs]:
    """Return the names of mteb's tasks, sorted, with their inputs; none has videos."""
    found = {
        task.metadata.name: _inputs(task.metadata.modalities)
        for task in TASK_LIST
        if _KINDS.keys() >= set(task.metadata.modalities)
    }
    return dict(sorted(found.items()))


def _inputs(modalities: Iterable[str]) -> Inputs:
    return frozenset(_KINDS[each] for each in modalities)


def load(name: str, limit: int | None = None, *, reads: Inputs = inputs.TEXT) -> AbsTask:
    """Return a task with its data, downloaded if needed.

    Args:
        name: name of the task in mteb.
        limit: number of rows to keep of each measured part; for retrieval, number of queries,
            with all passages. None for all.
        reads: inputs that the model reads.

    Raises:
        InputError: for an unknown name, with similar ones; for a task with inputs that the model
            does not read, or with videos; or if the rows of the task cannot be cut.
        DataUnreachableError: if the data cannot be downloaded.
    """
    task = _find(name)
    if why := inputs.unread(_inputs(task.modalities), reads):
        raise InputError(f"{name} is not measured: {why}")
    for part in parts(task):
        try:
            part.load_data()
        except Exception as error:  # the hub's client, datasets and a task's own code may fail
            raise DataUnreachableError(name, error) from error
        _unpack(part)
        if limit is not None:
            _cut(part, limit)
    return task


def parts(task: AbsTask) -> list[AbsTask]:
    """Return the tasks of an aggregated task (``CQADupstackRetrieval``), or the task itself."""
    return list(task.tasks) if isinstance(task, AbsTaskAggregate) else [task]


def splits(task: AbsTask) -> Iterator[tuple[str, str, Any, Any]]:
    """Yield subset, split, the mapping that holds the split, and the data of each measured part."""
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
    if not set(task.modalities) <= _KINDS.keys():
        raise InputError(
            f"{name} is made of {', '.join(task.modalities)}; expected {', '.join(_KINDS)}"
        )
    return task


def _unpack(task: AbsTask) -> None:
    """Convert older data formats, which mteb converts itself, to the current one."""
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
    if isinstance(task, AbsTaskClustering):  # all remaining rows are embedded
        task.max_fraction_of_documents_to_embed = task.max_document_to_embed = None
