"""Adapters: merged as PEFT does it, and refused where they belong to another base."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from gritlm import GritLM
from gritlm.errors import ModelError
from gritlm.lm.adapters import attach
from gritlm.lm.hub import default_model, gguf, lora, merge
from gritlm.lm.hub.weight_sources import HUB
from tests import tiny, tiny_gguf

TEXTS = ["The quick brown fox", "Water boils at 100 degrees", "Cats"]
IDS = torch.tensor([[1, 5, 9, 4]])
OPTIONS: dict[str, Any] = {"dtype": "float32", "device": "cpu"}


@pytest.fixture
def adapter(make_adapter: Callable[..., Path], llama_folder: Path, tmp_path: Path) -> Path:
    return make_adapter(llama_folder, tmp_path / "adapter")


def plain(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


def by_peft(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    from peft import PeftModel

    merged = PeftModel.from_pretrained(plain(base), adapter).merge_and_unload()
    return merged.state_dict()


def edit(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | changes), encoding="utf-8")


def change_weights(adapter: Path, changed: dict[str, torch.Tensor], **metadata: str) -> None:
    save_file(changed, adapter / lora.WEIGHTS_FILE, metadata={"format": "pt", **metadata})


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"target_modules": ["q_proj", "down_proj"]},
        {"layers_to_transform": [1], "target_modules": ["q_proj"]},
        {"use_rslora": True},
        {"use_dora": True},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"up_proj": 3}},
        {"modules_to_save": ["lm_head"]},
    ],
    ids=lambda settings: ", ".join(settings) or "plain",
)
def test_an_adapter_is_merged_as_peft_merges_it(make_adapter, llama_folder, tmp_path, settings):
    folder = make_adapter(llama_folder, tmp_path / "adapter", **settings)
    expected = by_peft(llama_folder, folder)
    found = merge.merge_adapter(plain(llama_folder), str(folder)).state_dict()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_plain_lora_needs_no_peft(adapter, llama_folder, monkeypatch):
    monkeypatch.setattr(attach, "PeftAdapter", None)
    assert merge.merge_adapter(plain(llama_folder), str(adapter))


def test_weights_are_merged_in_float32_and_rounded_afterwards(adapter, llama_folder):
    rounded = plain(llama_folder, torch.bfloat16)
    exact = merge.merge_adapter(rounded.float(), str(adapter)).state_dict()
    found = merge.merge_adapter(plain(llama_folder, torch.bfloat16), str(adapter)).state_dict()
    for name, value in exact.items():
        assert torch.equal(found[name], value.to(torch.bfloat16)), name


def test_both_views_read_the_merged_weights(adapter, llama_folder):
    expected = by_peft(llama_folder, adapter)
    untouched = GritLM(llama_folder, **OPTIONS)
    for model in (GritLM(llama_folder, adapter=adapter, **OPTIONS), GritLM(adapter, **OPTIONS)):
        assert torch.equal(model.model.state_dict()["lm_head.weight"], expected["lm_head.weight"])
        assert np.abs(model.encode(TEXTS) - untouched.encode(TEXTS)).max() > 1e-3
        with torch.inference_mode():
            assert (model.lm.logits(IDS) - untouched.lm.logits(IDS)).abs().max() > 1e-3


@pytest.mark.parametrize("task", [None, "CAUSAL_LM"])
def test_an_adapter_reaches_every_mode_and_brings_its_settings(
    make_adapter, llama_folder, tmp_path, task
):
    folder = make_adapter(llama_folder, tmp_path / "adapter", task_type=task)
    (folder / "gritlm.json").write_text('{"pooling_method": "lasttoken"}', encoding="utf-8")
    unified, reading = (
        GritLM(llama_folder, adapter=folder, mode=mode, **OPTIONS)
        for mode in ("unified", "embedding")
    )
    assert unified.settings.pooling_method == "lasttoken"
    assert np.abs(unified.encode(TEXTS) - reading.encode(TEXTS)).max() < 1e-5


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"hidden_size": 96}, "layers.0.mlp.down_proj has 96 outputs, the adapter's 48"),
        ({"num_hidden_layers": 2}, r"it has no layer model\.layers\.2\."),
        ({"num_hidden_layers": 4}, "the adapter has nothing for some of its layers"),
    ],
)
def test_an_adapter_for_a_base_of_other_sizes_is_refused_naming_its_base(
    adapter, llama_folder, tiny_model, changes, why
):
    other = tiny_model(**changes)
    with pytest.raises(ModelError, match=why) as caught:
        GritLM(other, adapter=adapter, **OPTIONS)
    said = str(caught.value)
    assert f"this adapter was made for {llama_folder}, which the LlamaForCausalLM {other}" in said
    assert "\n" not in said


def test_the_fingerprint_tells_another_base_of_the_same_size(adapter, llama_folder, tmp_path):
    tensors = load_file(adapter / lora.WEIGHTS_FILE)
    mark = lora.fingerprint(plain(llama_folder))
    change_weights(adapter, tensors, **{lora.FINGERPRINT: mark})
    assert GritLM(llama_folder, adapter=adapter, **OPTIONS).adapter == str(adapter)
    other = plain(llama_folder)
    other.model.norm.weight.data[0] += 0.5
    other.save_pretrained(tmp_path / "other")
    tiny.tokenizer().save_pretrained(tmp_path / "other")
    with pytest.raises(ModelError, match="the sizes are the same, the weights are others"):
        GritLM(tmp_path / "other", adapter=adapter, **OPTIONS)


def test_four_bits_and_other_number_formats_leave_the_fingerprint_as_it_is(tmp_path):
    model = tiny_gguf.write(tmp_path / "model.gguf", kind=tiny_gguf.Q4_1)
    gguf.convert(tmp_path / "model.gguf", tmp_path / "made")
    made = plain(tmp_path / "made")
    assert not torch.equal(made.lm_head.weight, model.lm_head.weight)
    prints = {lora.fingerprint(made.to(dtype)) for dtype in (torch.float32, torch.float16)}
    assert prints == {lora.fingerprint(model), lora.fingerprint(model.to(torch.bfloat16))}


def test_an_adapter_with_weights_that_are_no_numbers_is_refused(adapter, llama_folder):
    tensors = load_file(adapter / lora.WEIGHTS_FILE)
    next(iter(tensors.values())).fill_(float("nan"))
    change_weights(adapter, tensors)
    with pytest.raises(ModelError, match="non-finite weights"):
        GritLM(llama_folder, adapter=adapter, **OPTIONS)


def test_a_truncated_adapter_is_refused(adapter, llama_folder):
    path = adapter / lora.WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="truncated or damaged"):
        GritLM(llama_folder, adapter=adapter, **OPTIONS)


def test_an_adapter_with_a_file_missing_or_broken_says_which(adapter, llama_folder):
    (adapter / lora.WEIGHTS_FILE).unlink()
    with pytest.raises(ModelError, match=r"no adapter_model\.safetensors"):
        GritLM(llama_folder, adapter=adapter, **OPTIONS)
    (adapter / lora.CONFIG_FILE).write_text("{")
    with pytest.raises(ModelError, match=r"adapter_config\.json: no valid JSON"):
        GritLM(adapter, **OPTIONS)


def test_an_adapter_that_is_nowhere_says_so(llama_folder, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="'nobody/no-adapter' is neither a folder here nor"):
        GritLM(llama_folder, adapter="nobody/no-adapter", **OPTIONS)


@pytest.mark.parametrize(
    "name", ["base", HUB, f"/home/somebody/.cache/gritlm/{default_model.NAME}"]
)
def test_an_adapter_for_the_default_base_finds_it_by_any_of_its_names(
    adapter, llama_folder, monkeypatch, name
):
    monkeypatch.setattr(default_model, "ensure", lambda report=None: llama_folder)
    edit(adapter / lora.CONFIG_FILE, base_model_name_or_path=name)
    assert GritLM(adapter, **OPTIONS).source == str(llama_folder)


def test_an_adapter_that_names_no_base_asks_for_it(adapter):
    edit(adapter / lora.CONFIG_FILE, base_model_name_or_path=None)
    with pytest.raises(ModelError, match="names no base model; pass it"):
        GritLM(adapter, **OPTIONS)
