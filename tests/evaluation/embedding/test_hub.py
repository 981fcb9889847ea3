"""mteb's own tasks, with data put in place of what the hub would send."""

from __future__ import annotations

from typing import Any

import mteb
import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from mteb.get_tasks import TASK_LIST

from gritlm.errors import InputError
from gritlm.evaluation.embedding import local, mteb_run
from gritlm.evaluation.harnesses import DataUnreachableError
from tests.evaluation.embedding import folders


def pairs() -> DatasetDict:
    columns = zip(*folders.PAIRS, strict=True)
    names = ("sentence1", "sentence2", "score")
    table = {name: list(column) for name, column in zip(names, columns, strict=True)}
    return DatasetDict(test=Dataset.from_dict(table))


@pytest.fixture
def sends(monkeypatch):
    """Let a task of mteb load this."""

    def patch(name: str, **attributes: Any) -> None:
        def load_data(task: Any, **_: Any) -> None:
            vars(task).update(attributes, data_loaded=True)

        monkeypatch.setattr(type(mteb.get_task(name)), "load_data", load_data)

    return patch


def test_a_name_of_mteb_is_measured_as_the_same_rows_in_a_folder(model, tmp_path, sends):
    sends("STSBenchmark", dataset=pairs())
    own = mteb_run.measure(model, folders.sts(tmp_path))
    found = mteb_run.measure(model, "STSBenchmark")
    assert (found.score, found.pairs, found.metric) == (own.score, own.pairs, "cosine_spearman")
    few = mteb_run.measure(model, "STSBenchmark", limit=4).pairs
    assert few == pytest.approx(np.array(own.pairs[:4]), abs=1e-6)  # other texts in the batch


def test_retrieval_in_the_older_form_is_read_and_cut(model, tmp_path, sends):
    data = local.make(folders.retrieval(tmp_path)).dataset["default"]["test"]
    sends(
        "NFCorpus",
        corpus={"test": data["corpus"]},
        queries={"test": folders.QUERIES},
        relevant_docs={"test": folders.RELEVANT},
    )
    found = mteb_run.measure(model, "NFCorpus", limit=2)
    assert (found.count, len(found.items), found.metric) == (2, 2, "ndcg_at_10")


def test_pairs_in_one_row_are_read_as_rows(model, sends):
    one, two, gold = (list(column) for column in zip(*folders.PAIRS, strict=True))
    row = {"sentence1": [one], "sentence2": [two], "labels": [[int(value > 3) for value in gold]]}
    sends("SprintDuplicateQuestions", dataset=DatasetDict(test=Dataset.from_dict(row)))
    assert mteb_run.measure(model, "SprintDuplicateQuestions").count == len(folders.PAIRS)


def test_a_task_of_several_subsets_shows_each_and_has_no_rows(model, sends):
    subsets = mteb.get_task("STS17").hf_subsets
    sends("STS17", dataset={subset: pairs() for subset in subsets})
    found = mteb_run.measure(model, "STS17", limit=5)
    assert len(found.details) == len(subsets)
    assert (found.count, found.items, found.pairs) == (5 * len(subsets), None, None)
    assert found.details["en-en test"] == pytest.approx(found.score)


def test_a_task_made_of_tasks_is_the_mean_of_their_scores(model, tmp_path, sends):
    data = local.make(folders.retrieval(tmp_path)).dataset["default"]
    names = [task.metadata.name for task in mteb.get_task("CQADupstackRetrieval").tasks]
    for name in names:
        sends(name, dataset={"default": {"test": dict(data["test"])}})
    found = mteb_run.measure(model, "CQADupstackRetrieval", limit=1)
    assert (found.count, found.items, found.metric) == (len(names), None, "ndcg_at_10")


def test_a_limited_clustering_task_embeds_the_rows_that_are_left(model, sends):
    table = {
        "sentences": [t for t, _ in folders.CLASSED],
        "labels": [n for _, n in folders.CLASSED],
    }
    sends("TwentyNewsgroupsClustering.v2", dataset=DatasetDict(test=Dataset.from_dict(table)))
    found = mteb_run.measure(model, "TwentyNewsgroupsClustering.v2", limit=10)
    assert (found.count, found.metric) == (10, "v_measure")


def test_data_that_cannot_be_fetched_is_named(model, monkeypatch):
    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(type(mteb.get_task("STSBenchmark")), "load_data", fail)
    with pytest.raises(DataUnreachableError, match=r"'STSBenchmark' cannot .* \(no route to host"):
        mteb_run.measure(model, "STSBenchmark")


def test_an_unknown_name_is_refused_with_the_nearest(model):
    with pytest.raises(InputError, match="mteb has no task 'STSBenchmrk'; did you mean 'STSBench"):
        mteb_run.measure(model, "STSBenchmrk")


def test_a_task_that_the_model_does_not_read_is_refused(model):
    with pytest.raises(InputError, match="CIFAR10 is not measured: it reads text; the task has im"):
        mteb_run.measure(model, "CIFAR10")
    video = next(task for task in TASK_LIST if "video" in task.metadata.modalities)
    with pytest.raises(InputError, match=r"is made of .*video.*; expected text, image, audio"):
        mteb_run.measure(model, video.metadata.name)


def test_names_have_the_inputs_of_the_tasks():
    names = mteb_run.names()
    assert list(names) == sorted(names)
    assert names["STSBenchmark"] == names["NFCorpus"] == {"text"}
    assert names["CIFAR10"] == {"image"}
    assert names["Flickr30kI2TRetrieval"] == {"text", "image"}
    assert names["ClothoA2TRetrieval"] == {"text", "sound"}
    assert not any("video" in inputs for inputs in names.values())
