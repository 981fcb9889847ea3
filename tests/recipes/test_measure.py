"""The figures of measure.py, on a tiny random model and a few made-up rows."""

from __future__ import annotations

import gzip
import importlib
import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

from gritlm import GritLM
from gritlm.lm.chat import conversation
from gritlm.lm.tokens import SegmentTokenizer
from tests import tiny

RECIPE = Path(__file__).parents[2] / "recipes" / "cpu"
CHATS = [
    [{"role": "user", "content": "one and two"}, {"role": "assistant", "content": "is three"}],
    [{"role": "user", "content": "a dog"}, {"role": "assistant", "content": "barks at the moon"}],
]


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(RECIPE))
    return importlib.import_module("measure")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> GritLM:
    return GritLM(tiny.folder(tmp_path_factory.mktemp("tiny")), dtype="float32", device="cpu")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Questions that are the titles of their passages; two that are measured share one."""
    similar = tmp_path / "stsbenchmark" / "data" / "stsb-en-dev.csv"
    similar.parent.mkdir(parents=True)
    similar.write_text("a cat,a cat,5.0\na cat,the train is late today,0.0\na b,a c,3.0\n")
    asked = [f"question {number % 1357}" for number in range(1358)]
    path = tmp_path / "nq-open-oracle" / "qa_data" / "nq-open-oracle.jsonl.gz"
    path.parent.mkdir(parents=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        for question in asked:
            passage = {"title": question, "text": f"about {question}"}
            row = {"question": question, "answers": ["yes"], "ctxs": [passage]}
            file.write(json.dumps(row) + "\n")
    return tmp_path


def test_the_loss_is_that_of_transformers_over_all_answer_tokens(measure, model):
    tokens, total, count = SegmentTokenizer(model.tokenizer), 0.0, 0
    for chat in CHATS:
        prompt = conversation(tokens, chat, template=model.settings.template)
        ids_1L = torch.tensor([prompt.ids])
        labels_1L = torch.full_like(ids_1L, -100)
        for start, end in prompt.trained:
            labels_1L[0, start:end] = ids_1L[0, start:end]
        size = int((labels_1L >= 0).sum())
        with torch.no_grad():
            total += float(model.model(ids_1L, labels=labels_1L).loss) * size
        count += size
    assert measure.loss(model, CHATS) == pytest.approx(total / count, rel=1e-5)


def test_equal_texts_are_most_similar(measure, model, data):
    found = measure.similarity(model, Namespace(data=data, limit=None))
    assert found["STS-B dev, Spearman"] == pytest.approx(1.0)


def test_only_the_rows_behind_the_trained_ones_are_asked(measure, model, data, monkeypatch):
    asked = []
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda texts, **how: asked.append(texts) or encode(texts))
    found = measure.retrieval(model, Namespace(data=data, limit=1))
    assert asked[0] == ["question 1355"]
    assert len(asked[1]) == 5
    assert 0 <= found["NQ, recall@1"] <= found["NQ, nDCG@10"] <= found["NQ, recall@10"] == 1


def test_the_table_has_a_column_a_model_and_a_row_a_figure(measure):
    table = measure.table({"base": {"loss": 2.0}, "trained": {"loss": 1.5}})
    assert table.splitlines() == [
        "|  | base | trained |",
        "| --- | ---: | ---: |",
        "| loss | 2.0000 | 1.5000 |",
    ]
