"""Rows of a small task, and tiny models that are asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gritlm import GritLM
from gritlm.evaluation.rag.decode import PromptToRead
from gritlm.evaluation.rag.prompts import form_for
from gritlm.evaluation.rag.questions import Question
from gritlm.evaluation.rag.settings import asked, reader
from gritlm.evaluation.tasks.task import Task
from gritlm.lm.hub.model_config import ModelSettings
from tests import tiny

Rows = list[dict[str, Any]]

GOLD = "Ann has a red ball."
OTHERS = ["Cats sleep most of the day.", "Dogs like long walks.", "Water boils at 100 degrees."]
ROWS: Rows = [
    {"question": "What colour is the ball?", "answers": ["red"], "documents": [GOLD, *OTHERS]},
    {
        "question": "Who likes long walks?",
        "answers": ["Dogs", "dogs"],
        "documents": [OTHERS[1], {"title": "Water", "text": OTHERS[2]}],
    },
    {
        "question": "When do cats sleep, and what do they have?",
        "answers": ["most of the day"],
        "documents": [OTHERS[0], "Cats have a blue car.", GOLD],
        "gold": 2,
    },
]


def readings(model: GritLM, questions: list[Question], setting: str) -> list[PromptToRead]:
    """The prompt of each question in one setting."""
    return list(map(reader(model, form_for(model), setting), asked(questions, setting)))


MakeTask = Callable[..., Task]
MakeModel = Callable[..., GritLM]


@pytest.fixture
def make_task(tmp_path: Path) -> MakeTask:
    def make(rows: Rows | None = None, *, lines: list[str] | None = None) -> Task:
        lines = [json.dumps(row) for row in (ROWS if rows is None else rows)] + (lines or [])
        folder = tmp_path / "task"
        folder.mkdir(exist_ok=True)
        (folder / "test.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return Task("small", "rag", "QA", folder)

    return make


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    def make(
        settings: ModelSettings | None = None,
        family: str = "llama",
        mode: str = "unified",
        *,
        stated: bool = True,
        **changes: object,
    ) -> GritLM:
        folder = tmp_path_factory.mktemp(family)
        tiny.folder(folder, family, **({"max_position_embeddings": 1024} | changes))
        if stated:
            (settings or ModelSettings()).save(folder)
        return GritLM(folder, mode=mode, dtype="float32", device="cpu")

    return make


@pytest.fixture(scope="session")
def trained(make_model: MakeModel) -> GritLM:
    """A model that says it was trained to embed."""
    return make_model()


@pytest.fixture(scope="session")
def foreign(make_model: MakeModel) -> GritLM:
    """A model of others, with a chat format of its own and no ``gritlm.json``."""
    return make_model(stated=False)


@pytest.fixture(scope="session")
def untrained(make_model: MakeModel) -> GritLM:
    return make_model(ModelSettings(trained_to_embed=False))
