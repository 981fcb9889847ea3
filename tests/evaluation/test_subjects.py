"""The models to measure: known before they are loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from gritlm.errors import DownloadError, InputError, ModelError
from gritlm.evaluation import models
from tests import tiny
from tests.evaluation import made


def test_a_checkpoint_is_known_without_being_loaded(folder: Path):
    found = models.find_model(str(folder))
    assert (found.name, found.kind, found.source) == ("llama", "GritLM", folder)
    assert found.about["parameters"] == tiny.model().num_parameters()
    assert found.about["pooling"] == "mean"
    assert found.about["trained_to_embed"] is None  # nobody says
    assert all(found.cannot(half) is None for half in ("embedding", "generation", "rag"))


def test_the_digest_is_that_of_the_contents(folder: Path, copy: Path):
    before = models.find_model(str(folder)).digest
    (copy / "README.md").write_text("not counted")
    assert models.find_model(str(copy)).digest == before
    weights = load_file(copy / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert models.find_model(str(copy)).digest != before


def test_settings_and_adapters_are_part_of_the_digest(folder: Path, copy: Path, tmp_path: Path):
    before = models.find_model(str(folder)).digest
    (copy / "gritlm.json").write_text(json.dumps({"pooling_method": "lasttoken"}))
    changed = models.find_model(str(copy))
    assert changed.digest != before
    assert changed.about["pooling"] == "lasttoken"
    adapted = models.find_model(str(made.adapter(folder, tmp_path / "lora")))
    assert (adapted.source, adapted.adapter) == (folder, tmp_path / "lora")
    assert adapted.digest != before


def test_a_model_can_be_called_otherwise(folder: Path):
    assert models.find_model(f"ours={folder}").name == "ours"
    several = models.find_models([str(folder), f"ours={folder}"])
    assert [each.name for each in several] == ["llama", "ours"]
    with pytest.raises(InputError, match="two models are called 'llama'"):
        models.find_models([str(folder), str(folder)])


def test_a_folder_called_like_many_others_gets_that_of_its_parent(tmp_path: Path):
    place = tiny.folder(tmp_path / "run7" / "checkpoint-20")
    assert models.find_model(str(place)).name == "run7/checkpoint-20"


def test_what_is_no_model_is_refused(tmp_path: Path, monkeypatch):
    with pytest.raises(ModelError, match=r"no \*\.safetensors file"):
        models.find_model(str(tmp_path))
    with pytest.raises(ModelError, match="there is no such folder"):
        models.find_model(str(tmp_path / "nowhere"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match="neither a folder here nor a model"):
        models.find_model("no-such-owner/no-such-model")


def test_damaged_weights_are_refused(copy: Path):
    (copy / "model.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(ModelError, match="truncated or damaged"):
        models.find_model(str(copy))


def test_weights_in_the_folder_of_a_module_are_those_of_sentence_transformers(
    folder: Path, tmp_path: Path
):
    place = tmp_path / "encoder"
    shutil.copytree(folder, place / "0_Transformer")
    (place / "modules.json").write_text("[]")
    found = models.find_model(str(place))
    assert found.kind == "sentence-transformers"
    assert found.about["parameters"] == tiny.model().num_parameters()


def test_weights_that_are_there_twice_count_once(copy: Path):
    before = models.find_model(str(copy))
    shutil.copy(copy / "model.safetensors", copy / "consolidated.safetensors")
    assert models.find_model(str(copy)) == before


def test_whether_a_head_was_saved_is_known_before_loading(copy: Path):
    assert models.find_model(str(copy)).has_head
    weights = load_file(copy / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert not models.find_model(str(copy)).has_head


def test_an_adapter_that_names_no_base_is_told_where_to_name_it(folder: Path, tmp_path: Path):
    place = made.adapter(folder, tmp_path / "lora")
    file = place / "adapter_config.json"
    said = json.loads(file.read_text())
    file.write_text(json.dumps({**said, "base_model_name_or_path": None}))
    with pytest.raises(ModelError, match=r"into adapter_config.json as base_model_name_or_path"):
        models.find_model(str(place))
