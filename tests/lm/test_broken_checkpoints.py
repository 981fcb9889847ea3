"""Damaged checkpoints and adapters: they work, or are refused by one of our errors in one line."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from gritlm import GritLM
from gritlm.errors import GritLMError, ModelError
from gritlm.lm.hub import gguf
from tests import tiny, tiny_gguf

pytestmark = pytest.mark.filterwarnings("ignore")

OPTIONS: dict[str, Any] = {"dtype": "float32", "device": "cpu"}
TEXT, WORKS = "Cats sleep", "works"
VALUES: tuple[Any, ...] = (None, 0, -1, 10**12, "x", [1], {}, 1.5, True)
CONFIG = [
    "architectures",
    "attention_bias",
    "attention_dropout",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "initializer_range",
    "intermediate_size",
    "layer_types",
    "max_position_embeddings",
    "mlp_bias",
    "model_type",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "pad_token_id",
    "quantization_config",
    "rope_parameters",
    "sliding_window",
    "tie_word_embeddings",
    "use_cache",
    "vocab_size",
]
GENERATION = ["bos_token_id", "eos_token_id", "pad_token_id", "max_new_tokens", "temperature"]
TOKENIZER = [
    "added_tokens",
    "decoder",
    "model",
    "normalizer",
    "post_processor",
    "pre_tokenizer",
    "truncation",
    "padding",
    "version",
]
TOKENIZER_CONFIG = [
    "backend",
    "bos_token",
    "eos_token",
    "pad_token",
    "tokenizer_class",
    "auto_map",
    "model_max_length",
    "extra_special_tokens",
    "chat_template",
    "padding_side",
]
ADAPTER = [
    "base_model_name_or_path",
    "bias",
    "fan_in_fan_out",
    "init_lora_weights",
    "lora_alpha",
    "lora_dropout",
    "modules_to_save",
    "peft_type",
    "r",
    "rank_pattern",
    "target_modules",
    "target_parameters",
    "task_type",
    "trainable_token_indices",
    "use_dora",
    "use_rslora",
]
# Without these, a model is another one that nothing in the folder speaks against.
UNDETECTABLE = {
    "decoder",
    "pre_tokenizer",
    "post_processor",
    "eos_token",
    "rope_parameters",
    "lora_alpha",
    "use_rslora",
    "added_tokens",
}


@pytest.fixture(scope="module")
def base(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model()


@pytest.fixture(scope="module")
def expected(base: Path) -> tuple[np.ndarray, str]:
    return used(GritLM(base, **OPTIONS))


@pytest.fixture
def copy(base: Path, tmp_path: Path) -> Path:
    return shutil.copytree(base, tmp_path / "copy")


def used(model: GritLM) -> tuple[np.ndarray, str]:
    return model.encode(TEXT), str(model.chat("Hello", max_new_tokens=4))


def outcome(expected: tuple[np.ndarray, str], *args: Any, **options: Any) -> str:
    """``works``, ``differs``, or the message of the error."""
    try:
        vector, answer = used(GritLM(*args, **options, **OPTIONS))
    except GritLMError as error:
        said = str(error)
        return said if "\n" not in said and len(said) < 1200 else "differs: no short line"
    assert np.isfinite(vector).all()
    same = np.abs(vector - expected[0]).max() < 1e-5 and answer == expected[1]
    return WORKS if same else "differs"


def edit(path: Path, key: str, value: Any, *, remove: bool = False) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    content.pop(key, None)
    path.write_text(json.dumps(content if remove else content | {key: value}), encoding="utf-8")


def mutate(original: Path, path: Path, key: str, check: Callable[[str], str]) -> None:
    """Take a key away, then set it to each wrong value."""
    for value in ("missing", *VALUES):
        shutil.copyfile(original, path)
        edit(path, key, value, remove=value == "missing")
        label = f"{path.name}: {key}={value!r}"
        found = check(label)
        assert not found.startswith("differs") or key in UNDETECTABLE, (label, found)


@pytest.mark.parametrize(
    ("file", "key"),
    [
        *(("config.json", key) for key in CONFIG),
        *(("generation_config.json", key) for key in GENERATION),
        *(("tokenizer.json", key) for key in TOKENIZER),
        *(("tokenizer_config.json", key) for key in TOKENIZER_CONFIG),
    ],
)
def test_a_wrong_value_in_a_file_is_refused_or_does_no_harm(base, copy, expected, file, key):
    mutate(base / file, copy / file, key, lambda _: outcome(expected, copy))


def damaged(raw: bytes) -> dict[str, bytes]:
    return {
        "half": raw[: len(raw) // 2],
        "empty": b"",
        "a few bytes": raw[:3],
        "cut": raw[:-2],
        "zeros": bytes(len(raw)),
        "a list": b"[]",
        "null": b"null",
        "a number": b"5",
        "not UTF-8": b'{"a": "\xff\xfe"}',
        "deep": b'{"a":' * 50_000,
        "deep list": b"[" * 100_000,
    }


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "model.safetensors",
        "chat_template.jinja",
        "gritlm.json",
    ],
)
def test_a_damaged_file_is_refused_or_does_no_harm(base, copy, expected, name):
    path = copy / name
    raw = (base / name).read_bytes() if path.exists() else b'{"pooling_method": "mean"}'
    harmless = {"chat_template.jinja": {"zeros", "a list", "null", "a number", "not UTF-8"}}
    for kind, content in damaged(raw).items():
        path.write_bytes(content)
        found = outcome(expected, copy)
        assert not found.startswith("differs") or kind in harmless.get(name, ()), (name, kind)
        if name in ("config.json", "tokenizer.json", "model.safetensors"):
            assert str(copy) in found, (name, kind, found)


def test_more_layers_than_tensors_are_refused_before_they_are_made(copy, expected):
    edit(copy / "config.json", "num_hidden_layers", 10**9)
    assert "num_hidden_layers=1000000000, the weights have 30 tensors" in outcome(expected, copy)


def test_a_config_with_fewer_layers_than_the_weights_is_refused(copy, expected):
    edit(copy / "config.json", "num_hidden_layers", 2)
    said = outcome(expected, copy)
    assert "9 tensors of the checkpoint have no place in the model" in said
    assert "model.layers.2.input_layernorm.weight" in said


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    changed = change(tensors) or tensors
    save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})


TENSORS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], Any], str]] = {
    "missing": (lambda t: t.pop("model.norm.weight") is None, "1 tensors are not in the check"),
    "short": (
        lambda t: t.update({"model.norm.weight": torch.ones(3)}),
        r"norm\.weight has the shape \[3\], by config.json it is \[48\]",
    ),
    "wide": (
        lambda t: t.update({"lm_head.weight": torch.ones(400, 49)}),
        r"lm_head\.weight has the shape \[400, 49\], by config.json it is \[400, 48\]",
    ),
    "a scalar": (lambda t: t.update({"model.norm.weight": torch.tensor(1.0)}), r"the shape \[\]"),
    "a bias": (
        lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": torch.ones(48)}),
        r"no place in the model .* \(model\.layers\.0\.self_attn\.q_proj\.bias\)",
    ),
    "other names": (
        lambda t: {name.replace("model.", "other."): value for name, value in t.items()},
        "29 tensors are not in the checkpoint",
    ),
    "NaN in the head": (
        lambda t: t["lm_head.weight"].fill_(float("nan")) is None,
        "non-finite states",
    ),
}


@pytest.mark.parametrize(("change", "match"), TENSORS.values(), ids=TENSORS.keys())
def test_tensors_that_do_not_fit_the_config_are_named(copy, change, match):
    change_tensors(copy, change)
    with pytest.raises(ModelError, match=match):
        GritLM(copy, **OPTIONS)


@pytest.mark.parametrize("mode", ["generative", "embedding"])
def test_weights_that_are_not_finite_are_refused_in_every_mode(copy, mode):
    change_tensors(copy, lambda t: t["model.norm.weight"].fill_(float("nan")) is None)
    with pytest.raises(ModelError, match="non-finite states"):
        GritLM(copy, mode=mode, attn="cccc", **OPTIONS)


@pytest.mark.parametrize("size", [2**62, 10**6, 3])
def test_a_header_that_does_not_fit_its_file_is_refused(copy, expected, size):
    (copy / "model.safetensors").write_bytes(struct.pack("<Q", size) + b"{}")
    assert "truncated or damaged" in outcome(expected, copy)


OUTSIDE = "names the file '../base/model.safetensors', which is not in the folder"
INDEXES: dict[str, tuple[Callable[[dict[str, str]], Any], str]] = {
    "right": (lambda names: {"metadata": {}, "weight_map": names}, WORKS),
    "a missing file": (
        lambda names: {"metadata": {}, "weight_map": names | {"lm_head.weight": "b.safetensors"}},
        "names b.safetensors, which is missing",
    ),
    "outside": (
        lambda names: {"weight_map": names | {"lm_head.weight": "../base/model.safetensors"}},
        OUTSIDE,
    ),
    "absolute": (lambda names: {"weight_map": {"lm_head.weight": "/etc/passwd"}}, "/etc/passwd"),
    "no files": (lambda names: {"metadata": {}, "weight_map": {}}, "weight_map is no object"),
    "numbers": (lambda names: {"weight_map": dict.fromkeys(names, 1)}, "names 1, which is missing"),
    "a list": (lambda names: [1], "expected a JSON object"),
}


@pytest.mark.parametrize(("made", "match"), INDEXES.values(), ids=INDEXES.keys())
def test_an_index_of_weights_names_files_of_its_folder(copy, expected, made, match):
    shard = (copy / "model.safetensors").rename(copy / "model-00001-of-00001.safetensors")
    names = dict.fromkeys(load_file(shard), shard.name)
    (copy / "model.safetensors.index.json").write_text(json.dumps(made(names)))
    assert match in outcome(expected, copy)


@pytest.fixture(scope="module")
def adapter(
    base: Path, make_adapter: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = make_adapter(base, tmp_path_factory.mktemp("adapter"))
    tiny.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapted(base: Path, adapter: Path) -> tuple[np.ndarray, str]:
    return used(GritLM(base, adapter=adapter, **OPTIONS))


@pytest.mark.parametrize("key", ADAPTER)
def test_a_wrong_value_in_an_adapter_is_refused_or_does_no_harm(
    base, adapter, adapted, tmp_path, monkeypatch, key
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    copy = shutil.copytree(adapter, tmp_path / "copy")
    path = copy / "adapter_config.json"

    def check(_: str) -> str:
        alone, on_base = outcome(adapted, copy), outcome(adapted, base, adapter=copy)
        assert alone == on_base or alone not in (WORKS, "differs")
        return on_base

    mutate(adapter / path.name, path, key, check)


@pytest.mark.parametrize(
    "name",
    ["adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "tokenizer_config.json"],
)
def test_a_damaged_file_of_an_adapter_is_refused(base, adapter, adapted, tmp_path, name):
    copy = shutil.copytree(adapter, tmp_path / "copy")
    for kind, content in damaged((adapter / name).read_bytes()).items():
        (copy / name).write_bytes(content)
        assert str(copy) in outcome(adapted, base, adapter=copy), kind


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"r": 2}, "r=2, the tensors have the rank 4"),
        ({"target_modules": ["q_proj"]}, "of its tensors have no place in the layers"),
        ({"base_model_name_or_path": 5}, "base_model_name_or_path=5; expected a folder or hub id"),
        ({"trainable_token_indices": [10**12]}, "made for 1000000000001 tokens, the base has 400"),
    ],
)
def test_an_adapter_whose_configuration_and_tensors_differ_is_refused(
    adapter, tmp_path, changes, match
):
    copy = shutil.copytree(adapter, tmp_path / "copy")
    for key, value in changes.items():
        edit(copy / "adapter_config.json", key, value)
    with pytest.raises(ModelError, match=match):
        GritLM(copy, **OPTIONS)


def test_a_tensor_of_an_adapter_without_a_layer_is_refused(base, adapter, tmp_path):
    copy = shutil.copytree(adapter, tmp_path / "copy")
    path = copy / "adapter_model.safetensors"
    save_file(load_file(path) | {"base_model.model.other.weight": torch.ones(2)}, path)
    with pytest.raises(ModelError, match=r"no place in the layers .*other\.weight"):
        GritLM(base, adapter=copy, **OPTIONS)


@pytest.mark.parametrize("size", [0, 1, 8, 24, 100, 5_000, 20_000, 40_000, 80_000])
def test_a_gguf_file_cut_short_is_refused(tmp_path, size):
    path = tmp_path / "model.gguf"
    tiny_gguf.write(path, kind=tiny_gguf.Q4_1)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ModelError, match=r"model\.gguf: ") as caught:
        gguf.convert(path, tmp_path / "made")
    assert "\n" not in str(caught.value)
