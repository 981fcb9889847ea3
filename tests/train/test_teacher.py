"""Distillation from a real encoder of sentence-transformers, tiny and random."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules

from gritlm.errors import ModelError
from gritlm.train.objectives.distillation import Teacher
from gritlm.train.trainer import train
from tests.train import runs


@pytest.fixture(scope="module")
def teacher(tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    body = modules.Transformer(str(tiny_model(seed=7)))
    pool = modules.Pooling(body.get_embedding_dimension(), pooling_mode="mean")
    SentenceTransformer(modules=[body, pool], device="cpu").save(str(folder / "made"))
    return folder / "made"


def test_vectors_are_those_of_the_teacher_and_read_once(teacher):
    made = Teacher(str(teacher), device=torch.device("cpu"))
    found = made.vectors(["cats sleep", "dogs", "cats sleep"])
    assert torch.equal(found[0], found[2])
    assert torch.allclose(found.norm(dim=1), torch.ones(3), atol=1e-5)
    made._model = None
    assert torch.equal(made.vectors(["dogs"])[0], found[1])


def test_a_student_comes_near_its_teacher(teacher, tmp_path):
    run = runs.make(
        tmp_path,
        loss={"teacher": str(teacher), "contrastive_weight": 0.0},
        training={"mode": "embedding", "max_steps": 25, "learning_rate": 3e-3},
    )
    train(run)
    course = [entry["loss_emb"] for entry in runs.losses(run)]
    assert sum(course[-5:]) < 0.7 * sum(course[:5])


def test_a_teacher_is_distilled_in_steps_of_scored_pairs_too(teacher, tmp_path):
    run = runs.make(
        tmp_path,
        loss={"teacher": str(teacher), "scored_weight": 0.0},
        training={"mode": "embedding", "max_steps": 25, "learning_rate": 3e-3},
        data={"embedding": (runs.write(tmp_path / "scored.jsonl", runs.SCORED),)},
    )
    metrics = train(run).metrics
    assert metrics["loss_emb"] == pytest.approx(metrics["loss_emb/distillation"])
    assert metrics["loss_emb/scored"] == 0
    course = [entry["loss_emb"] for entry in runs.losses(run)]
    assert sum(course[-5:]) < 0.7 * sum(course[:5])


def test_a_teacher_that_cannot_be_loaded_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"loss.teacher = .*nowhere"):
        Teacher(str(tmp_path / "nowhere"), device=torch.device("cpu"))
