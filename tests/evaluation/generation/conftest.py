"""Tiny models, with lm-eval's own `hf` model over the same weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from gritlm import GritLM
from gritlm.evaluation.generation.harness import GritLMHarness
from gritlm.evaluation.tasks.task import Task


@pytest.fixture(scope="session")
def checkpoint(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model()


@pytest.fixture(scope="session")
def model(checkpoint: Path) -> GritLM:
    return GritLM(checkpoint, device="cpu", dtype="float32")


@pytest.fixture
def ours(model: GritLM) -> GritLMHarness:
    return GritLMHarness(model)


@pytest.fixture(scope="session")
def theirs(checkpoint: Path) -> HFLM:
    return hf(checkpoint)


def hf(checkpoint: Path) -> HFLM:
    return HFLM(pretrained=str(checkpoint), device="cpu", dtype="float32", batch_size=3)


def asked(kind: str, arguments: Sequence[tuple[Any, ...]]) -> list[Instance]:
    return [
        Instance(kind, {}, args, 0, metadata=("test", i, 1)) for i, args in enumerate(arguments)
    ]


TaskMaker = Callable[..., Task]


@pytest.fixture
def task(tmp_path: Path) -> TaskMaker:
    """Writes a local task: its yaml, its rows, and other files by name."""

    def make(yaml: str, rows: Sequence[dict[str, Any]], **files: str) -> Task:
        folder = tmp_path / "colours"
        folder.mkdir(exist_ok=True)
        (folder / "task.yaml").write_text(yaml, encoding="utf-8")
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "test.jsonl").write_text(lines, encoding="utf-8")
        for name, text in files.items():
            (folder / name.replace("_", ".")).write_text(text, encoding="utf-8")
        return Task("colours", "generation", "multiple_choice", folder)

    return make


CHOICE = """
dataset_path: json
dataset_kwargs: {data_files: {test: test.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{query}}\\nAnswer:"
doc_to_choice: choices
doc_to_target: gold
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""

COLOURS = [
    {"query": "what colour is the ball?", "choices": ["red", "a blue car", "brown fox"], "gold": 0},
    {"query": "what do dogs like?", "choices": ["walks", "to sleep most of the day"], "gold": 0},
    {"query": "when does water boil?", "choices": ["at 100 degrees", "at 0 degrees"], "gold": 0},
    {"query": "who has a car?", "choices": ["Ann", "Bob", "Cats", "Dogs"], "gold": 1},
    {"query": "what colour is the fox?", "choices": ["red", "brown"], "gold": 1},
]
