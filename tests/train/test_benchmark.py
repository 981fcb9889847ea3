"""The training benchmarks run on a tiny model."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def model(tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return str(tiny_model(max_position_embeddings=512))


def test_a_step_of_both_objectives_is_measured(model, tmp_path):
    train_ours = importlib.import_module("train_ours")
    trainer = train_ours.trainer(
        tmp_path / "run",
        model,
        pairs=train_ours.pairs(2),
        chats=train_ours.chats(2),
        length=64,
        row=256,
        budget=512,
    )
    batch = trainer.loader.next(1)
    assert len(batch.embedding.queries) == 2
    assert len(batch.samples) == 2
    assert math.isfinite(train_ours.step(trainer, batch)())


def test_the_memory_of_a_step_is_measured(model):
    train_memory = importlib.import_module("train_memory")
    found = train_memory.measured(train_memory.MemoryCase(model, rows=4, budget=64, kept=64))
    assert found.tokens == 2 * 4 * train_memory.LENGTH
    assert 0 < found.at_once <= 64
