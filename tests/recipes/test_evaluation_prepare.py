"""The evaluation recipe: what prepare.py makes of made-up sets, and of the real ones."""

from __future__ import annotations

import gzip
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gritlm.evaluation.tasks import discovery

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "evaluation"
SAMPLES = ROOT / "src" / "gritlm" / "evaluation" / "samples"
DATA = ROOT.parent / "shared" / "data"
COPIED = ("CC0", "CC BY", "MIT", "Apache-2.0", "public domain")

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is not there")


def run(data: Path, out: Path, *more: str) -> Path:
    subprocess.run([sys.executable, RECIPE / "prepare.py", data, out, *more], check=True)
    return out


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def of_text(folder: Path) -> dict[str, bytes]:
    """The contents without the tasks with images and sound, which another script writes."""
    found = contents(folder)
    return {name: data for name, data in found.items() if not name.startswith("senses/")}


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(RECIPE))
    return importlib.import_module


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bank with two intents, sums, and questions whose passages are about one number each."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("banking77", "gsm8k", "nq-open-oracle"):
        put(folder / name / "SOURCE.txt", f"Dataset: {name}\nSource: made up\nLicence: MIT\n")
    for split in ("train", "test"):
        lines = [f"{split} question {number},intent{number % 2}" for number in range(30)]
        put(folder / f"banking77/banking_data/{split}.csv", "\n".join(["text,category", *lines]))
        sums = [{"question": f"{split}: {n}+1?", "answer": f"#### {n + 1}"} for n in range(30)]
        text = "\n".join(map(json.dumps, sums))
        put(folder / f"gsm8k/grade_school_math/data/{split}.jsonl", text)
    asked = []
    for number in range(1358):
        passage = {"title": f"page {number}", "text": f"the number {number} is even or odd{number}"}
        question = f"what is the number {number}"
        answers = [f"odd{number}"] if number != 1356 else ["odd1356", "odd3", "odd4"]
        asked.append(json.dumps({"question": question, "answers": answers, "ctxs": [passage]}))
    path = folder / "nq-open-oracle" / "qa_data" / "nq-open-oracle.jsonl.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress("\n".join(asked).encode()))
    return folder


MADE_UP = ("Banking77", "gsm8k", "NQ-report", "NQ-report-RAG")


@pytest.fixture(scope="module")
def made(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(data, tmp_path_factory.mktemp("out"), "--only", *MADE_UP)


def test_every_folder_is_a_task_of_its_half(made):
    found = {task.name: (task.half, task.type) for task in discovery.local(made)}
    assert found == {
        "Banking77": ("embedding", "Classification"),
        "gsm8k": ("generation", "generate_until"),
        "NQ-report": ("embedding", "Retrieval"),
        "NQ-report-RAG": ("rag", "QA"),
    }


def test_a_task_says_where_its_rows_come_from_and_under_which_licence(made):
    task = discovery.local(made)[0]
    assert (task.source, task.licence, task.language) == ("made up", "MIT", "eng")
    assert "| Banking77 | 30 | made up | MIT |" in (made / "SOURCES.md").read_text("utf-8")


def test_two_runs_write_the_same_bytes(data, made, tmp_path):
    assert contents(run(data, tmp_path, "--only", *MADE_UP)) == contents(made)


def test_only_the_questions_behind_the_trained_ones_are_asked(made):
    asked = {row["text"] for row in rows(made / "embedding/NQ-report/queries.jsonl")}
    assert asked == {f"what is the number {number}" for number in (1355, 1356, 1357)}
    assert {row["question"] for row in rows(made / "rag/NQ-report-RAG/test.jsonl")} == asked


def test_a_question_is_searched_in_the_passages_of_all_rows_and_one_is_right(made):
    folder = made / "embedding" / "NQ-report"
    texts = {row["_id"]: row["text"] for row in rows(folder / "corpus.jsonl")}
    asked = {row["_id"]: row["text"] for row in rows(folder / "queries.jsonl")}
    header, *judged = (folder / "qrels" / "test.tsv").read_text("utf-8").splitlines()
    assert (len(texts), header) == (1358, "query-id\tcorpus-id\tscore")
    for query, passage, score in (line.split("\t") for line in judged):
        assert texts[passage].startswith(asked[query].removeprefix("what is "))
        assert score == "1"


def test_the_right_passage_is_first_among_four_that_hold_no_answer(made):
    for row in rows(made / "rag" / "NQ-report-RAG" / "test.jsonl"):
        right, *others = (document["text"] for document in row["documents"])
        assert row["answers"][0] in right
        assert len(others) == 4
        assert not any(answer in text.split() for answer in row["answers"] for text in others)


def test_a_generation_task_has_its_template_and_solved_examples_of_the_training_split(made):
    folder = made / "generation" / "gsm8k"
    template = RECIPE / "tasks" / "gsm8k" / "task.yaml"
    assert (folder / "task.yaml").read_bytes() == template.read_bytes()
    assert all(row["question"].startswith("train") for row in rows(folder / "fewshot.jsonl"))
    assert len(rows(folder / "test.jsonl")) == 30


def test_a_sample_is_the_beginning_with_a_few_training_rows_of_each_label(data, made, tmp_path):
    small = run(data, tmp_path, "--sample", "5", "--only", "Banking77") / "embedding" / "Banking77"
    whole = made / "embedding" / "Banking77"
    assert rows(small / "test.jsonl") == rows(whole / "test.jsonl")[:5]
    labels = [row["label"] for row in rows(small / "train.jsonl")]
    assert sorted(labels) == ["intent0"] * 8 + ["intent1"] * 8


def test_a_sample_says_that_it_is_one_and_how_much_it_holds(data, made, tmp_path):
    run(data, tmp_path, "--sample", "5", "--only", "Banking77")
    [small], whole = discovery.local(tmp_path), discovery.local(made)[0]
    assert small.description == f"{whole.description} (a sample: 5 rows)"


def test_the_numbers_that_are_told_are_those_of_the_rows(module):
    contents = module("contents")
    rows = [{"positive": ["a"], "negative": ["b", "c"]}, {"positive": ["a"], "negative": ["b"]}]
    assert contents.counted({"test.jsonl": rows})["documents"] == "2 to 3"
    five = [{"documents": list("abcde"), "subject": name} for name in ("law", "law", "art")]
    assert contents.counted({"test.jsonl": five}) == {"documents": "5", "subjects": "2"}
    searched = contents.search({"q": ["a"], "r": ["a"]}, [("", "a"), ("", "b")])
    assert contents.extent(searched) == "2 rows, 2 passages"


def test_a_sample_leaves_out_sets_that_may_not_be_copied(data, tmp_path):
    run(data, tmp_path, "--sample", "5", "--only", *MADE_UP)
    assert {task.name for task in discovery.local(tmp_path)} == {"Banking77", "gsm8k"}


def test_an_unknown_task_is_refused_with_the_names_of_all(data, tmp_path):
    command = [sys.executable, RECIPE / "prepare.py", data, tmp_path, "--only", "Banking78"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Banking78: no such task" in done.stderr
    assert "Banking77," in done.stderr


def test_missing_sets_are_named(data, tmp_path):
    command = [sys.executable, RECIPE / "prepare.py", data, tmp_path, "--only", "mmlu", "bbh"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "has no folder bbh, mmlu" in done.stderr


def test_rare_words_and_short_passages_rank_first(module):
    ranking = module("bm25").Ranking(["the cat", "the dog", "the dog and the other dogs of it all"])
    assert ranking.nearest("the dog") == [1, 2, 0]


def test_an_answer_is_found_word_by_word(module):
    holds = module("raw").holds
    assert holds("In 1901, Röntgen won.", ["wilhelm", "RÖNTGEN"])
    assert not holds("in 1930", ["30"])


def test_a_sampled_search_keeps_the_right_passages_and_as_many_others(module):
    contents = module("contents")
    pool = [("", f"passage {number}") for number in range(20)]
    asked = {f"question {number}": [f"passage {number}"] for number in range(10)}
    small = contents.sample(contents.search(asked, pool), 3)
    kept = {row["_id"] for row in small["corpus.jsonl"]}
    judged = [row["corpus-id"] for row in small["qrels/test.tsv"]]
    assert (len(small["queries.jsonl"]), len(judged), len(kept)) == (3, 3, 6)
    assert set(judged) <= kept


def test_examples_of_subjects_that_a_sample_does_not_have_are_left_out(module):
    contents = module("contents")
    test = [{"subject": "law", "question": "?"}]
    shown = [{"subject": subject} for subject in ("law", "physics")]
    small = contents.sample({"test.jsonl": test, "fewshot.jsonl": shown}, 5)
    assert small["fewshot.jsonl"] == [{"subject": "law"}]


def test_a_long_article_is_cut_between_sentences_and_nothing_is_lost(module):
    passages = module("passages")
    text = "Title\n\n" + " ".join(f"Sentence {number} has five words." for number in range(100))
    pieces = [text[start:end] for start, end in passages._pieces(text)]
    assert "".join(pieces) == text
    assert all(piece.rstrip().endswith(".") for piece in pieces)
    assert all(len(piece.split()) <= passages.WORDS for piece in pieces)


def test_every_generation_task_has_a_template_and_every_template_a_task(module):
    made = {task.name for task in module("table").GENERATION}
    assert made == {path.parent.name for path in (RECIPE / "tasks").glob("*/task.yaml")}


def test_a_sample_is_only_of_sets_under_licences_that_allow_it():
    for task in discovery.local(SAMPLES):
        assert any(licence in task.licence for licence in COPIED), task.name
        assert "SA" not in task.licence
        listed = SAMPLES / "senses" if task.half == "senses" else SAMPLES
        assert f"| {task.name} |" in (listed / "SOURCES.md").read_text("utf-8")


def test_the_samples_are_small_and_of_all_halves():
    assert sum(map(len, of_text(SAMPLES).values())) < 1.2e6
    halves = {task.half for task in discovery.local(SAMPLES)}
    assert halves == {"embedding", "generation", "rag", "senses"}


def test_the_templates_in_the_samples_are_those_of_the_recipe():
    for task in discovery.local(SAMPLES):
        for name in ("task.yaml", "utils.py"):
            if (copy := task.folder / name).is_file():
                assert copy.read_bytes() == (RECIPE / "tasks" / task.name / name).read_bytes()


@needs_data
def test_the_samples_are_what_the_recipe_writes(tmp_path):
    assert contents(run(DATA, tmp_path, "--sample", "300")) == of_text(SAMPLES)


@needs_data
def test_the_real_sets_have_the_rows_they_are_known_to_have(tmp_path):
    names = ("STSBenchmark-dev", "NQ-report", "NQ-report-RAG", "LiveQA-Med", "HotpotQA-RAG", "copa")
    run(DATA, tmp_path, "--only", *names)
    folders = {task.name: task.folder for task in discovery.local(tmp_path)}
    counts = {
        name: len(rows(folder / "test.jsonl"))
        for name, folder in folders.items()
        if (folder / "test.jsonl").is_file()
    }
    assert counts == {
        "STSBenchmark-dev": 1500,
        "NQ-report-RAG": 300,
        "LiveQA-Med": 42,
        "HotpotQA-RAG": 100,
        "copa": 100,
    }
    assert len(rows(folders["NQ-report"] / "queries.jsonl")) == 300
    for row in rows(folders["HotpotQA-RAG"] / "test.jsonl"):
        assert 0 < row["gold"] < len(row["documents"])
