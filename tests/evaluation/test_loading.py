"""Models in memory for as long as they are measured, and what they can do."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gritlm import GritLM
from gritlm.errors import ModelError
from gritlm.evaluation import subjects
from gritlm.evaluation.loading import lacks, loaded
from tests import tiny
from tests.evaluation import made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.folder(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "llama"))


def test_a_model_is_in_memory_for_the_time_of_the_block(folder: Path):
    with loaded(subjects.find(str(folder)), device="cpu", dtype="float32") as model:
        assert isinstance(model, GritLM)
        assert all(lacks(model, half) is None for half in ("embedding", "generation"))


def test_an_adapter_for_another_base_is_refused(folder: Path, tmp_path: Path):
    place = made.adapter(folder, tmp_path / "lora", hidden_size=32)
    found = subjects.find(str(place))
    with (
        pytest.raises(ModelError),
        loaded(found, device="cpu", dtype="float32"),
    ):
        pass


def test_a_checkpoint_without_its_head_only_embeds(copy: Path):
    weights = load_file(copy / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with loaded(subjects.find(str(copy)), device="cpu", dtype="float32") as model:
        assert lacks(model, "embedding") is None
        assert "only embeds" in str(lacks(model, "generation"))
        assert "only embeds" in str(lacks(model, "rag"))


def test_a_model_whose_attention_stays_causal_only_writes(folder: Path, monkeypatch):
    def refuse(lm: object) -> None:
        raise ModelError("its attention cannot be changed")

    monkeypatch.setattr("gritlm.lm.gritlm.require_views", refuse)
    with loaded(subjects.find(str(folder)), device="cpu", dtype="float32") as model:
        assert lacks(model, "generation") is None
        assert "only writes" in str(lacks(model, "embedding"))


def test_an_encoder_of_sentence_transformers_only_embeds(tmp_path: Path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    plain = tiny.folder(tmp_path / "plain")
    words = modules.Transformer(str(plain))
    pooling = modules.Pooling(words.get_embedding_dimension())
    SentenceTransformer(modules=[words, pooling], device="cpu").save_pretrained(
        str(tmp_path / "encoder")
    )
    found = subjects.find(str(tmp_path / "encoder"))
    assert found.kind == "sentence-transformers"
    assert found.cannot("embedding") is None
    assert "only embeds" in str(found.cannot("rag"))
    with loaded(found, device="cpu", dtype="float32") as model:
        assert isinstance(model, SentenceTransformer)
        assert torch.is_tensor(model.encode("x", convert_to_tensor=True))
