"""Folders as tasks of mteb: what is read, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from mteb.abstasks.classification import AbsTaskClassification

from gritlm.errors import InputError
from gritlm.evaluation.embedding import local
from gritlm.evaluation.embedding.encoder import mteb_encoder
from tests.evaluation.embedding import folders
from tests.evaluation.embedding.folders import jsonl


@pytest.mark.parametrize("kind", folders.MAKERS)
def test_a_folder_is_a_loaded_task_of_its_type(tmp_path, kind):
    made = local.make(folders.MAKERS[kind](tmp_path))
    assert made.metadata.type == kind
    assert made.data_loaded


def test_queries_without_a_judgement_are_left_out_and_passages_stay(tmp_path):
    task = folders.retrieval(tmp_path)
    data = local.make(task, limit=2).dataset["default"]["test"]
    assert data["queries"]["id"][:] == ["q1", "q2"]
    assert list(data["relevant_docs"]) == ["q1", "q2"]
    assert len(data["corpus"]) == len(folders.PASSAGES)


@pytest.mark.parametrize("kind", ["STS", "PairClassification", "Classification", "Clustering"])
def test_limit_takes_the_first_rows_to_measure_on(tmp_path, kind):
    task = folders.MAKERS[kind](tmp_path)
    whole = local.make(task).dataset
    few = len(whole["test"]) - 1
    cut = local.make(task, few).dataset
    assert cut["test"][:] == whole["test"][:few]
    if kind == "Classification":
        assert cut["train"][:] == whole["train"][:]


def test_labels_in_memory_change_no_figure_of_a_classification(tmp_path, model):
    quick = local.make(folders.classification(tmp_path))
    plain = type("Plain", (AbsTaskClassification,), {"metadata": quick.metadata})()
    plain.dataset, plain.data_loaded = quick.dataset, True
    found, expected = (
        task.evaluate(mteb_encoder(model), encode_kwargs={}) for task in (quick, plain)
    )
    assert found == expected


def refused(tmp_path: Path, kind: str, limit: int | None = None) -> str:
    with pytest.raises(InputError) as caught:
        local.make(folders.task(tmp_path, kind), limit)
    return str(caught.value)


def test_an_unknown_type_is_refused(tmp_path):
    assert "type='Poetry' is unknown" in refused(tmp_path, "Poetry")


def test_a_label_of_a_pair_is_0_or_1(tmp_path):
    jsonl(tmp_path / "test.jsonl", [{"sentence1": "a", "sentence2": "b", "label": 2}])
    said = refused(tmp_path, "PairClassification")
    assert "test.jsonl:1: column 'label' is 2; expected 0 or 1" in said


def test_gold_values_that_are_all_the_same_are_refused(tmp_path):
    folders.sts(tmp_path)
    said = refused(tmp_path, "STS", limit=1)
    assert "all 1 rows have score 4.5; a score needs two different ones, and limit=1 cut" in said


def test_a_label_that_no_training_row_has_is_refused(tmp_path):
    folders.classification(tmp_path)
    jsonl(tmp_path / "test.jsonl", [{"text": "a", "label": "plant"}])
    assert "test.jsonl:1: label 'plant' is in no row of" in refused(tmp_path, "Classification")


def test_labels_are_texts_or_numbers_and_more_than_one(tmp_path):
    row = {"text": "a", "label": "x"}
    jsonl(tmp_path / "test.jsonl", [row, {"text": "b", "label": 1}])
    assert "test.jsonl:2: column 'label' is 1, and 'x' in" in refused(tmp_path, "Clustering")
    jsonl(tmp_path / "test.jsonl", [row, row])
    assert "all 2 rows have the label 'x'" in refused(tmp_path, "Clustering")


def test_a_passage_cannot_be_right_and_wrong(tmp_path):
    row = {"query": "a", "positive": ["b"], "negative": ["c", "b"]}
    jsonl(tmp_path / "test.jsonl", [row])
    said = refused(tmp_path, "Reranking")
    assert "test.jsonl:1: 'b' is both in 'positive' and 'negative'" in said


@pytest.mark.parametrize(
    ("file", "line", "said"),
    [
        ("corpus.jsonl", '{"_id": "fox", "text": "a"}', "6: _id 'fox' is in"),
        ("corpus.jsonl", '{"_id": "x", "text": " "}', "6: neither 'title' nor 'text' has words"),
        ("corpus.jsonl", '{"_id": 5, "text": "a"}', "6: column '_id' is 5"),
        ("queries.jsonl", '{"_id": "q1", "text": "a"}', "5: _id 'q1' is in"),
        ("qrels/test.tsv", "q1\tfox", "6: 2 columns with tabs between; expected 3"),
        ("qrels/test.tsv", "q1\tfox\tyes", "6: column 'score' is 'yes'; expected a whole number"),
        ("qrels/test.tsv", "q9\tfox\t1", "6: 'q9' is no _id in"),
        ("qrels/test.tsv", "q1\towl\t1", "6: 'owl' is no _id in"),
    ],
)
def test_a_wrong_line_of_a_retrieval_task_is_named(tmp_path, file, line, said):
    folders.retrieval(tmp_path)
    with (tmp_path / file).open("a", encoding="utf-8") as end:
        end.write(line + "\n")
    assert f"{tmp_path / file}:{said}" in refused(tmp_path, "Retrieval")


def test_judgements_have_the_header_of_beir(tmp_path):
    folders.retrieval(tmp_path)
    (tmp_path / "qrels" / "test.tsv").write_text("q1\tfox\t1\n", encoding="utf-8")
    assert "test.tsv:1: 'q1\\tfox\\t1'; expected the header" in refused(tmp_path, "Retrieval")
