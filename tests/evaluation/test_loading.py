"""Models in memory for as long as they are measured, and what they can do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gritlm import GritLM
from gritlm.errors import AttentionError, InputError, ModelError
from gritlm.evaluation import models
from gritlm.evaluation.loading import loaded
from gritlm.evaluation.runner import RunnerOptions, number_format
from gritlm.lm import gritlm as facade
from tests.evaluation import made


def test_a_model_is_in_memory_for_the_time_of_the_block(folder: Path):
    with loaded(models.find_model(str(folder)), device="cpu", dtype="float32") as ready:
        assert isinstance(ready.model, GritLM)
        assert all(ready.lacks(half) is None for half in ("embedding", "generation"))


def test_weights_are_quantised_on_request(tiny_model: Callable[..., Path]):
    found = models.find_model(str(tiny_model(hidden_size=64, intermediate_size=128)))
    with loaded(found, device="cpu", dtype="float32", quantization="int4") as ready:
        assert ready.model.quantization == "int4"
    options = RunnerOptions(device="cpu", dtype="float32", quantization="int4")
    assert number_format(found, options) == "float32-int4"


def test_an_encoder_is_not_quantised(folder: Path):
    found = replace(models.find_model(str(folder)), kind="sentence-transformers")
    with (
        pytest.raises(InputError, match="which quantization='int8' is not for"),
        loaded(found, device="cpu", dtype=None, quantization="int8"),
    ):
        pass


@pytest.fixture
def modes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The modes in which weights are read, from now on."""
    seen: list[str] = []
    whole = facade.load

    def note(*args: object, mode: str, **options: object) -> object:
        seen.append(mode)
        return whole(*args, mode=mode, **options)

    monkeypatch.setattr(facade, "load", note)
    return seen


def test_an_adapter_for_another_base_is_refused_at_once(folder: Path, tmp_path: Path, modes):
    place = made.adapter(folder, tmp_path / "lora", hidden_size=32)
    with pytest.raises(ModelError), loaded(models.find_model(str(place)), device="cpu", dtype=None):
        raise AssertionError("it was loaded")
    assert modes == ["unified"]


def test_what_is_wrong_for_both_halves_is_refused_at_once(copy: Path, modes):
    weights = load_file(copy / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    found = models.find_model(str(copy))
    with pytest.raises(ModelError, match="1 tensors"), loaded(found, device="cpu", dtype=None):
        raise AssertionError("it was loaded")
    assert modes == ["unified"]


def test_an_incomplete_checkpoint_without_head_is_refused_with_the_first_reason(copy: Path):
    weights = load_file(copy / "model.safetensors")
    del weights["lm_head.weight"], weights["model.norm.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    found = models.find_model(str(copy))
    with pytest.raises(ModelError, match="2 tensors"), loaded(found, device="cpu", dtype=None):
        raise AssertionError("it was loaded")


def test_a_checkpoint_without_its_head_only_embeds(copy: Path):
    weights = load_file(copy / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with loaded(models.find_model(str(copy)), device="cpu", dtype="float32") as ready:
        assert ready.lacks("embedding") is None
        reason = str(ready.lacks("generation"))
        assert reason == ready.lacks("rag")
        assert reason.startswith("it only embeds: ")
        assert "lm_head.weight" in reason


def test_a_model_whose_attention_stays_causal_only_writes(folder: Path, monkeypatch):
    def refuse(lm: object) -> None:
        raise AttentionError("its attention cannot be changed")

    monkeypatch.setattr("gritlm.lm.gritlm.require_views", refuse)
    with loaded(models.find_model(str(folder)), device="cpu", dtype="float32") as ready:
        assert ready.lacks("generation") is None
        assert ready.lacks("embedding") == "it only writes: its attention cannot be changed"


def test_an_encoder_of_sentence_transformers_only_embeds(
    tiny_model: Callable[..., Path], tmp_path: Path
):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    words = modules.Transformer(str(tiny_model()))
    pooling = modules.Pooling(words.get_embedding_dimension())
    SentenceTransformer(modules=[words, pooling], device="cpu").save_pretrained(
        str(tmp_path / "encoder")
    )
    found = models.find_model(str(tmp_path / "encoder"))
    assert found.kind == "sentence-transformers"
    assert found.cannot("embedding") is None
    assert "only embeds" in str(found.cannot("rag"))
    with loaded(found, device="cpu", dtype="float32") as ready:
        assert isinstance(ready.model, SentenceTransformer)
        assert torch.is_tensor(ready.model.encode("x", convert_to_tensor=True))
        assert ready.lacks("rag") == "it only embeds"
