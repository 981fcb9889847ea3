"""Folders and names become tasks, or are refused with what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gritlm.errors import InputError
from gritlm.evaluation.tasks import discovery
from tests.evaluation import made

HUBS = {
    "embedding": lambda: ["STSBenchmark", "SciFact", "same"],
    "generation": lambda: ["gsm8k", "arc_easy", "same"],
}
BARE = {
    "STS": {"test.jsonl": {"sentence1": "a", "sentence2": "b", "score": 1.0}},
    "PairClassification": {"test.jsonl": {"sentence1": "a", "sentence2": "b", "label": 1}},
    "Classification": {
        "train.jsonl": {"text": "a", "label": 0},
        "test.jsonl": {"text": "a", "label": 0},
    },
    "Clustering": {"test.jsonl": {"text": "a", "label": "x"}},
    "Reranking": {"test.jsonl": {"query": "a", "positive": ["b"], "negative": ["c"]}},
    "QA": {"test.jsonl": {"question": "a", "answers": ["b"], "documents": ["c"]}},
    "Retrieval": {
        "corpus.jsonl": {"_id": "1", "text": "a"},
        "queries.jsonl": {"_id": "1", "text": "a"},
    },
}


def folder(path: Path, kind: str) -> Path:
    for file, row in BARE[kind].items():
        made.lines(path / file, [row])
    if kind == "Retrieval":
        (path / "qrels").mkdir()
        (path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n1\t1\t1\n")
    return path


@pytest.mark.parametrize("kind", BARE)
def test_a_bare_folder_tells_its_type_by_its_files(tmp_path: Path, kind):
    (task,) = discovery.local(folder(tmp_path / "mine", kind))
    assert (task.name, task.type) == ("mine", kind)
    assert task.half == ("rag" if kind == "QA" else "embedding")


def test_a_folder_with_a_yaml_of_lm_eval_is_a_generation_task(tmp_path: Path):
    (task,) = discovery.local(made.endings(tmp_path / "endings"))
    assert (task.half, task.type) == ("generation", "multiple_choice")


def test_task_toml_says_more(tmp_path: Path):
    place = folder(tmp_path / "mine", "STS")
    (place / "task.toml").write_text(
        'name = "Pairs"\ntype = "STS"\ninstruction = "Find alike"\nlicence = "MIT"\n'
    )
    (task,) = discovery.local(tmp_path)
    assert (task.name, task.instruction, task.licence) == ("Pairs", "Find alike", "MIT")


def test_tasks_are_found_at_any_depth(tmp_path: Path):
    made.data(tmp_path / "a" / "b")
    assert [task.name for task in discovery.local(tmp_path)] == ["answers", "endings", "pairs"]


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ('typ = "STS"', "task.toml: unknown key 'typ'; did you mean 'type'?"),
        ('type = "STSS"', "expected one of Retrieval, STS"),
        ('type = "Reranking"', "test.jsonl:1: no column 'query'; the row has sentence1"),
        ('type = "Classification"', "no file train.jsonl"),
        ('half = "rag"', "half = 'rag'; a task of type 'STS' is in 'embedding'"),
    ],
)
def test_a_task_in_the_wrong_layout_is_refused(tmp_path: Path, toml, said):
    place = folder(tmp_path / "mine", "STS")
    (place / "task.toml").write_text(toml)
    with pytest.raises(InputError) as error:
        discovery.local(tmp_path)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no rows"),
        ("[1]\n", "test.jsonl:1: list; expected one JSON object"),
        ("{\n", "test.jsonl:1: broken JSON"),
        (json.dumps({"sentence1": "a", "sentence2": "b"}), "columns sentence1, sentence2; that is"),
    ],
)
def test_rows_that_tell_no_type_are_named(tmp_path: Path, text, said):
    (tmp_path / "test.jsonl").write_text(text)
    with pytest.raises(InputError) as error:
        discovery.local(tmp_path)
    assert said in str(error.value)


def test_a_retrieval_folder_without_judgements_says_so(tmp_path: Path):
    place = folder(tmp_path / "mine", "Retrieval")
    (place / "qrels" / "test.tsv").unlink()
    with pytest.raises(InputError, match=r"no file qrels/test\.tsv"):
        discovery.local(place)


def test_a_folder_without_tasks_and_one_that_is_not_there_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="no task in this folder"):
        discovery.local(tmp_path)
    with pytest.raises(InputError, match="there is no such folder"):
        discovery.local(tmp_path / "nowhere")


def test_two_tasks_of_one_name_are_refused(tmp_path: Path):
    made.sts(tmp_path / "a" / "pairs")
    made.sts(tmp_path / "b" / "pairs")
    with pytest.raises(InputError, match="is called 'pairs' too"):
        discovery.local(tmp_path)


def test_a_name_is_a_local_task_else_one_of_mteb_else_one_of_lm_eval(tmp_path: Path):
    tasks = discovery.local(made.data(tmp_path))
    names = ["gsm8k", "pairs", "same", "SciFact", "gsm8k"]
    found = discovery.named(names, tasks, HUBS)
    assert [(each.name, each.kind) for each in found] == [
        ("gsm8k", "generation"),
        ("pairs", "embedding"),
        ("same", "embedding"),
        ("SciFact", "embedding"),
    ]
    assert found[0].task == "gsm8k"
    assert found[1].task == next(task for task in tasks if task.name == "pairs")


def test_a_hub_is_asked_only_when_the_name_was_not_found_before_it(tmp_path: Path):
    tasks = discovery.local(made.data(tmp_path))
    assert discovery.named(["pairs"], tasks, {"embedding": pytest.fail})
    assert discovery.named(["SciFact"], tasks, {**HUBS, "generation": pytest.fail})


def test_an_unknown_name_names_the_nearest(tmp_path: Path):
    tasks = discovery.local(made.data(tmp_path))
    with pytest.raises(InputError) as error:
        discovery.named(["scifcat"], tasks, HUBS)
    assert "no local task and nothing of mteb and nothing of lm-eval" in str(error.value)
    assert "did you mean 'SciFact'" in str(error.value)
    with pytest.raises(InputError, match="did you mean 'pairs'"):
        discovery.named(["pears"], tasks, HUBS)
