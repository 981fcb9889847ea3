"""The recipe of the default model: what prepare.py writes, and that its stages read it."""

from __future__ import annotations

import csv
import gzip
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from gritlm import config
from gritlm.train.config import SourceConfig, TrainConfig
from gritlm.train.data.sources import load

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "default"
DATA = ROOT.parent / "shared" / "data"

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is not there")


def run(out: Path) -> Path:
    subprocess.run([sys.executable, RECIPE / "prepare.py", DATA, out], check=True)
    return out


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("prepared"))


def rows(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            yield path, json.loads(line)


def texts(row: dict[str, Any]) -> list[str]:
    """All that a model would read of a row, instructions left out."""
    if "query" in row:
        return [text for _, text in (row["query"], *row["pos"], *row["neg"])]
    if "sentence1" in row:
        return [row["sentence1"], row["sentence2"]]
    if "messages" in row:
        return [message["content"] for message in row["messages"]]
    return [row["question"], row["answer"], *(document["text"] for document in row["documents"])]


def plain(text: str) -> str:
    return re.sub(r"[\W_]+", "", text.casefold())


def measured_questions() -> list[dict[str, Any]]:
    nq = DATA / "nq-open-oracle" / "qa_data" / "nq-open-oracle.jsonl.gz"
    with gzip.open(nq, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file][1355:]


def measured() -> set[str]:
    """Texts of some of the sets that are only measured, passages left out."""
    found = [row["question"] for row in measured_questions()]
    with (DATA / "stsbenchmark/data/stsb-en-dev.csv").open(encoding="utf-8", newline="") as file:
        found += [sentence for row in csv.reader(file) for sentence in row[:2]]
    gsm8k = DATA / "gsm8k" / "grade_school_math" / "data" / "test.jsonl"
    for line in gsm8k.read_text(encoding="utf-8").splitlines():
        found += json.loads(line).values()
    return {plain(text) for text in found}


@needs_data
def test_every_row_has_texts_and_is_of_the_kind_its_file_says(prepared):
    keys = {
        "embedding": {"query", "pos", "neg"},
        "scored": {"sentence1", "sentence2", "score"},
        "generative": {"messages"},
        "rag": {"question", "documents", "answer"},
    }
    seen = set()
    for path, row in rows(prepared):
        kind = next(kind for kind in keys if kind in path.stem)
        assert row.keys() == keys[kind] | ({"source"} if "heldout" in path.stem else set())
        assert all(text.strip() for text in texts(row))
        seen.add(kind)
    assert seen == keys.keys()


@needs_data
def test_training_reads_every_file_and_finds_no_row_twice(prepared):
    for path in prepared.glob("*.jsonl"):
        kinds = {
            "scored": "embedding",
            **{name: name for name in ("embedding", "generative", "rag")},
        }
        kind = next(kind for name, kind in kinds.items() if name in path.stem)
        found = load(SourceConfig(str(path), cap=300), kind)
        assert (len(found) > 0, found.duplicates) == (True, 0), path.name


@needs_data
def test_no_text_that_is_measured_is_trained_on(prepared):
    banned = measured()
    for path, row in rows(prepared):
        for text in texts(row):
            assert plain(text) not in banned, (path.name, text)


@needs_data
def test_no_passage_that_is_retrieved_for_a_measured_question_is_trained_on(prepared):
    beginnings = {plain(row["ctxs"][0]["text"])[:60] for row in measured_questions()}
    for path, row in rows(prepared):
        if path.stem.endswith("-nq"):
            whole = plain(" ".join(texts(row)))
            assert not [beginning for beginning in beginnings if beginning in whole]


@needs_data
def test_questions_of_one_set_come_with_several_instructions(prepared):
    for path in prepared.glob("embedding-*.jsonl"):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len({json.loads(line)["query"][0] for line in lines}) >= 3


@needs_data
def test_the_sources_name_every_file(prepared):
    named = (prepared / "SOURCES.md").read_text(encoding="utf-8")
    assert all(f"| {path.name} |" in named for path in prepared.glob("*.jsonl"))


@needs_data
def test_two_runs_write_the_same_bytes(prepared, tmp_path):
    again = run(tmp_path)
    one, other = (
        {path.name: path.read_bytes() for path in folder.iterdir()} for folder in (prepared, again)
    )
    assert one == other


@needs_data
def test_some_questions_are_not_answered_in_their_passages(prepared):
    found = [row for path, row in rows(prepared) if path.stem.startswith("rag-")]
    unanswered = [row for row in found if row["answer"] == "Not in the passages."]
    assert 0.02 < len(unanswered) / len(found) < 0.2


@needs_data
def test_the_stages_name_only_files_that_are_written(prepared, monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPE))
    written = {path.name for path in prepared.iterdir()} | {"generative-own.jsonl"}
    written |= {f"rag-{name}-answered.jsonl" for name in importlib.import_module("make").ANSWERED}
    for path in RECIPE.glob("stage*.toml"):
        told = config.read(path, TrainConfig)
        sources = (*told.data.embedding, *told.data.generative, *told.data.rag)
        assert {Path(source.path).name for source in sources} <= written


def test_each_stage_goes_on_from_the_one_before():
    stages = [config.read(RECIPE / f"stage{number}.toml", TrainConfig) for number in (1, 2, 3, 4)]
    for before, stage in pairwise(stages):
        folder, _, checkpoint = str(stage.model.adapter).partition("/checkpoint-")
        assert folder == before.training.output_dir
        assert not checkpoint or int(checkpoint) % before.training.save_steps == 0
    assert stages[0].model.adapter is None
    assert [stage.training.mode for stage in stages] == ["embedding", *["unified"] * 3]
