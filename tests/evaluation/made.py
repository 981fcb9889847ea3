"""Small local tasks on disk, results, and halves that measure without a harness."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import peft

from gritlm.evaluation.kinds import Measure, MeasureOptions
from gritlm.evaluation.models import EvaluatedModel
from gritlm.evaluation.results import Kind, TaskResult
from gritlm.evaluation.tasks.discovery import ChosenTask
from gritlm.evaluation.tasks.task import Task
from tests import tiny

PAIRS = [
    ("A cat sleeps.", "The cat is asleep.", 4.5),
    ("A dog runs.", "A dog is running.", 4.8),
    ("Water boils.", "The ball is red.", 0.2),
    ("A man eats.", "A man has lunch.", 3.9),
    ("Birds sing.", "It rains in spring.", 0.9),
    ("She reads.", "A woman reads a book.", 3.2),
]
QUESTIONS = [
    {
        "question": "What colour is the ball?",
        "answers": ["red"],
        "documents": ["Ann has a red ball.", "Cats sleep most of the day."],
    },
    {
        "question": "At how many degrees does water boil?",
        "answers": ["100"],
        "documents": ["Water boils at 100 degrees.", "Dogs like long walks."],
    },
    {
        "question": "What do cats do most of the day?",
        "answers": ["sleep"],
        "documents": ["Cats sleep most of the day.", "Bob has a blue car."],
    },
]
CHOICES = [
    {"query": "Cats sleep most of the", "choices": ["day", "ball"], "gold": 0},
    {"query": "Water boils at 100", "choices": ["dogs", "degrees"], "gold": 1},
    {"query": "Ann has a red", "choices": ["ball", "boils"], "gold": 0},
]
YAML = """task: endings
dataset_path: json
dataset_kwargs:
  data_files:
    test: test.jsonl
test_split: test
output_type: multiple_choice
doc_to_text: query
doc_to_target: gold
doc_to_choice: choices
metric_list:
  - metric: acc
"""


def lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def sts(folder: Path) -> Path:
    rows = [{"sentence1": a, "sentence2": b, "score": s} for a, b, s in PAIRS]
    lines(folder / "test.jsonl", rows)
    return folder


def endings(folder: Path) -> Path:
    lines(folder / "test.jsonl", CHOICES)
    (folder / "task.yaml").write_text(YAML, encoding="utf-8")
    return folder


def answering(folder: Path) -> Path:
    lines(folder / "test.jsonl", QUESTIONS)
    return folder


def data(folder: Path) -> Path:
    """A folder with one task of each half."""
    sts(folder / "pairs")
    endings(folder / "endings")
    answering(folder / "answers")
    return folder


def chosen(name: str, half: Kind = "embedding") -> ChosenTask:
    """A task of a hub."""
    return ChosenTask(name, half, name)


def subject(name: str = "ours", *, encoder: bool = False) -> EvaluatedModel:
    """A model that no fake measure looks at."""
    kind = "sentence-transformers" if encoder else "GritLM"
    return EvaluatedModel(name, kind, Path(name), None, f"digest-of-{name}")


def result(task: str, *, half: Kind = "embedding", **changes: Any) -> TaskResult:
    """Three of four rows right."""
    given: dict[str, Any] = {
        "kind": "Retrieval",
        "metric": "ndcg_at_10",
        "score": 75.0,
        "count": 4,
        "seconds": 0.5,
        "items": (1.0, 1.0, 0.0, 1.0),
        "details": {"recall": 80.0},
        "harness": "none 1.0",
    }
    return TaskResult(task=task, half=half, **{**given, **changes})


class Counting:
    """Halves that answer at once, and know what they were asked."""

    def __init__(self, **raises: BaseException) -> None:
        self.asked: list[tuple[Kind, str, MeasureOptions]] = []
        self._raises = raises

    def measures(self) -> Mapping[Kind, Measure]:
        def of(half: Kind) -> Measure:
            def measure(model: Any, task: Task | str, how: MeasureOptions) -> list[TaskResult]:
                name = task if isinstance(task, str) else task.name
                self.asked.append((half, name, how))
                if name in self._raises:
                    raise self._raises[name]
                return [result(name, half=half)]

            return measure

        return {"embedding": of("embedding"), "generation": of("generation"), "rag": of("rag")}

    @property
    def names(self) -> list[str]:
        return [name for _, name, _ in self.asked]


def adapter(base: Path, place: Path, **changes: object) -> Path:
    """Over the tiny model, or one of another size."""
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    model = peft.get_peft_model(tiny.model(**changes), config)
    model.peft_config["default"].base_model_name_or_path = str(base)
    model.save_pretrained(place)
    return place
