"""Folders of runs in sentence-transformers: the same vectors, or a reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from gritlm import GritLM
from gritlm.lm.hub.quiet import quiet
from gritlm.train.trainer import train
from tests.train import runs

TEXTS = ["The quick brown fox", "  Ann has a red ball", "cats"]
LORA = {"lora": True, "lora_r": 4}


def trained(folder: Path, **sections: object) -> Path:
    """The folder that a run of two steps leaves behind."""
    return Path(train(runs.make(folder, **sections)).output_dir)


def assert_alike(folder: Path) -> None:
    model = GritLM(folder, device="cpu", dtype="float32")
    with quiet():
        other = SentenceTransformer(str(folder), device="cpu")
    for ours, theirs in (
        (model.encode(TEXTS), other.encode(TEXTS)),
        (model.encode_query(TEXTS), other.encode_query(TEXTS)),
        (model.encode_document(TEXTS), other.encode_document(TEXTS)),
    ):
        assert (np.sum(ours * theirs, axis=1) >= 0.9999).all()


@pytest.mark.parametrize("model", [{}, {"projection": 16}], ids=["plain", "projection"])
def test_a_run_and_its_checkpoints_embed_alike_elsewhere(model, tmp_path):
    steps = {"max_steps": 2, "save_steps": 1}
    folder = trained(tmp_path, training=steps, model=model)
    assert_alike(folder)
    assert_alike(folder / "checkpoint-000001")


def test_a_merged_run_embeds_alike_elsewhere(tmp_path):
    folder = trained(tmp_path, training={"max_steps": 2, "save_merged": True}, model=LORA)
    assert_alike(folder)


def test_an_adapter_is_refused_elsewhere_until_it_is_merged(tmp_path):
    folder = trained(tmp_path, training={"max_steps": 2}, model=LORA)
    with pytest.raises(ImportError, match=r"adapter.*GritLM\(folder\)\.save_pretrained"):
        SentenceTransformer(str(folder), device="cpu")
    GritLM(folder, device="cpu", dtype="float32").save_pretrained(tmp_path / "merged")
    assert_alike(tmp_path / "merged")
