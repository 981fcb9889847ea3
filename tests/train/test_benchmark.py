"""The training benchmarks run on a tiny model."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from benchmarks.training import memory, ours


@pytest.fixture
def model(tiny_model: Callable[..., Path]) -> str:
    return str(tiny_model(max_position_embeddings=512))


def test_a_step_of_both_objectives_is_measured(model, tmp_path):
    trainer = ours.trainer(
        tmp_path / "run",
        model,
        pairs=ours.pairs(2),
        chats=ours.chats(2),
        length=64,
        row=256,
        budget=512,
    )
    batch = trainer.loader.next(1)
    assert len(batch.embedding.queries) == 2
    assert len(batch.samples) == 2
    assert math.isfinite(ours.step(trainer, batch)())


def test_the_memory_of_a_step_is_measured(model):
    found = memory.measured(memory.MemoryCase(model, rows=4, budget=64, kept=64))
    assert found.tokens == 2 * 4 * memory.LENGTH
    assert 0 < found.at_once <= 64
