"""GGUF -> checkpoint folder, on tiny models written as llama.cpp writes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from gritlm.errors import ModelError
from gritlm.lm.hub import gguf
from tests import tiny, tiny_gguf

TEXTS = [
    "Plain English, with punctuation!",
    "In 2024: 3.14159 and 1,000,000",
    "line\n\n\n1. one\n\ttab  two spaces ",
    "an astronaut 👩‍🚀 and confetti 🎉",
    "naïve café Ångström e\u0301",
    "漢字 日本語 한국어",
    "a</s>b",
]


def _load(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("converted")
    tiny_gguf.write(place / "file" / "tiny.gguf")
    gguf.convert(place / "file" / "tiny.gguf", place / "model")
    return place / "model"


@pytest.mark.parametrize("tied", [True, False])
def test_conversion_gives_back_the_model_the_file_was_made_from(tmp_path: Path, tied: bool) -> None:
    original = tiny_gguf.write(tmp_path / "tiny.gguf", tied=tied)
    gguf.convert(tmp_path / "tiny.gguf", tmp_path / "model")
    made = _load(tmp_path / "model")
    ids = torch.arange(3, 40).unsqueeze(0)
    with torch.no_grad():
        for weight in original.parameters():  # not the buffers: RoPE keeps its precision
            weight.copy_(weight.to(torch.bfloat16))
        torch.testing.assert_close(made(ids).logits, original(ids).logits, rtol=0, atol=1e-5)
    for name, value in original.state_dict().items():
        assert torch.equal(made.state_dict()[name], value), name


@pytest.mark.parametrize("kind", [tiny_gguf.Q4_1, tiny_gguf.Q8_0])
def test_a_quantised_file_gives_what_transformers_loads(tmp_path: Path, kind: object) -> None:
    tiny_gguf.write(tmp_path / "tiny.gguf", kind=kind)
    gguf.convert(tmp_path / "tiny.gguf", tmp_path / "model")
    expected = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf").state_dict()
    made = _load(tmp_path / "model").state_dict()
    assert made.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(made[name], value.to(torch.bfloat16).float()), name


def test_tied_embeddings_are_stored_once(converted: Path) -> None:
    with safe_open(converted / "model.safetensors", framework="pt") as file:
        assert "lm_head.weight" not in file.keys()  # noqa: SIM118
    model = _load(converted)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_the_weights_are_kept_in_bfloat16(converted: Path) -> None:
    assert json.loads((converted / "config.json").read_text())["dtype"] == "bfloat16"
    with safe_open(converted / "model.safetensors", framework="pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.bfloat16}  # noqa: SIM118


def test_the_config_names_no_quantisation_and_no_path(converted: Path) -> None:
    config = json.loads((converted / "config.json").read_text())
    assert "quantization_config" not in config
    assert "_model_name_or_path" not in config
    assert (converted / "generation_config.json").is_file()


def test_the_tokenizer_knows_its_end_its_length_and_its_chat_format(converted: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(converted)
    assert tokenizer.eos_token == "</s>"
    assert tokenizer.model_max_length == 256
    assert tokenizer.chat_template == tiny.CHAT


@pytest.mark.parametrize("text", TEXTS)
def test_text_survives_the_converted_tokenizer(converted: Path, text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(converted)
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_a_special_token_in_a_text_stays_one_token(converted: Path) -> None:
    ids = AutoTokenizer.from_pretrained(converted)("a</s>b").input_ids
    assert ids.count(2) == 1
    assert len(ids) == 3


@pytest.mark.parametrize(
    ("pre", "pieces"), [("smollm", ["ĊĊ", "1", "2"]), ("gpt-2", ["Ċ", "Ċ", "12"])]
)
def test_smollm_files_split_digits_off_before_anything_else(
    tmp_path: Path, pre: str, pieces: list[str]
) -> None:
    tiny_gguf.write(tmp_path / "tiny.gguf", pre=pre)
    gguf.convert(tmp_path / "tiny.gguf", tmp_path / "model")
    core = AutoTokenizer.from_pretrained(tmp_path / "model").backend_tokenizer
    assert [piece for piece, _ in core.pre_tokenizer.pre_tokenize_str("\n\n12")] == pieces


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    tiny_gguf.write(tmp_path / "tiny.gguf", arch="gpt2")
    with pytest.raises(ModelError, match="expected the architecture 'llama', got 'gpt2'"):
        gguf.convert(tmp_path / "tiny.gguf", tmp_path / "model")


def test_a_file_that_lacks_a_tensor_is_refused(tmp_path: Path) -> None:
    tiny_gguf.write(tmp_path / "tiny.gguf", leave_out="blk.1.ffn_up.weight")
    with pytest.raises(ModelError, match=r"no tensor for model\.layers\.1\.mlp\.up_proj\.weight"):
        gguf.convert(tmp_path / "tiny.gguf", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_converting_prints_nothing_and_leaves_progress_bars_as_they_were(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tiny_gguf.write(tmp_path / "tiny.gguf")
    transformers_logging.enable_progress_bar()
    capfd.readouterr()
    gguf.convert(tmp_path / "tiny.gguf", tmp_path / "model")
    assert capfd.readouterr() == ("", "")
    assert transformers_logging.is_progress_bar_enabled()
