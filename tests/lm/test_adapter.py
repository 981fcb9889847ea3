"""The adapter that the package ships, and the default model that it makes."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import safe_open

from gritlm import GritLM, gritlm_instruction
from gritlm.errors import ModelError
from gritlm.lm.adapters.plain import is_plain
from gritlm.lm.hub import default_model, lora
from gritlm.lm.hub.model_config import ModelSettings, read_settings
from gritlm.lm.hub.weight_sources import HUB
from tests import tiny

ROOT = Path(__file__).parents[2]
MOST_BYTES = 24_000_000
FILES = ("README.md", "adapter_config.json", "adapter_model.safetensors", "gritlm.json")


def test_its_weights_are_small_and_in_bfloat16():
    path = default_model.ADAPTER / lora.WEIGHTS_FILE
    assert path.stat().st_size <= MOST_BYTES
    with safe_open(path, framework="pt") as file:
        assert {file.get_slice(key).get_dtype() for key in file.keys()} == {"BF16"}  # noqa: SIM118
        assert lora.FINGERPRINT in file.metadata()


def test_it_names_its_base_by_the_id_that_every_machine_knows():
    assert lora.base_named(str(default_model.ADAPTER)) == HUB


def test_it_says_that_it_embeds_and_how_it_chats():
    settings = read_settings(default_model.ADAPTER)
    assert settings.trained_to_embed
    assert settings.template in ("gritlm", "tokenizer")


def test_it_has_a_card_for_the_model_hub():
    card = (default_model.ADAPTER / "README.md").read_text(encoding="utf-8")
    front, body = card.removeprefix("---\n").split("\n---\n", maxsplit=1)
    assert f"base_model: {HUB}" in front
    assert "license: apache-2.0" in front
    assert all(f"## {heading}" in body for heading in ("Data", "Limits"))


def test_plain_lora_of_it_needs_no_peft_to_load():
    config = json.loads((default_model.ADAPTER / lora.CONFIG_FILE).read_text(encoding="utf-8"))
    assert is_plain(config)


def test_a_built_wheel_holds_it():
    wheels = pytest.importorskip("hatchling.builders.wheel", reason="hatchling is not installed")
    builder = wheels.WheelBuilder(str(ROOT))
    packed = {file.distribution_path for file in builder.recurse_included_files()}
    assert {f"gritlm/lm/adapter/{name}" for name in FILES} <= packed


def test_it_is_refused_on_another_base(llama_folder: Path):
    with pytest.raises(ModelError, match=f"made for {HUB}, which the LlamaForCausalLM .* is not"):
        GritLM(llama_folder, adapter=default_model.ADAPTER, dtype="float32", device="cpu")


@pytest.fixture
def tiny_default(
    llama_folder: Path,
    make_adapter: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A tiny base and an adapter for it in the place of the real ones; the base's folder."""
    adapter = make_adapter(llama_folder, tmp_path / "adapter")
    ModelSettings(template="gritlm").save(adapter)
    monkeypatch.setattr(default_model, "ensure", lambda report=None: llama_folder)
    monkeypatch.setattr(default_model, "ADAPTER", adapter)
    return llama_folder


def vector(*name: str | Path | None, **options: object) -> list[float]:
    return GritLM(*name, dtype="float32", device="cpu", **options).encode("Cats sleep").tolist()


def test_no_name_and_the_word_default_mean_base_and_adapter(tiny_default: Path):
    expected = vector(tiny_default, adapter=default_model.ADAPTER)
    assert vector() == vector(None) == vector("default") == expected
    assert GritLM(device="cpu").adapter == str(default_model.ADAPTER)


def test_the_word_base_means_the_base_alone(tiny_default: Path):
    assert vector("base") == vector(tiny_default) != vector()
    assert GritLM("base", device="cpu").adapter is None


def test_an_adapter_handed_in_takes_the_place_of_the_shipped_one(
    tiny_default: Path, make_adapter: Callable[..., Path], tmp_path: Path
):
    other = make_adapter(tiny_default, tmp_path / "other", r=2)
    alone = vector(tiny_default, adapter=other)
    assert vector(adapter=other) == vector("base", adapter=other) == alone != vector()


def test_a_folder_of_one_of_these_names_is_given_as_a_path(
    tiny_default: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tiny.folder(tmp_path / "base", seed=1)
    monkeypatch.chdir(tmp_path)
    assert vector(Path("base")) == vector("./base") != vector("base")


def test_the_real_default_model_loads_without_a_network_and_finds_what_is_meant(
    default_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def refuse(*_: object) -> None:
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with caplog.at_level(logging.WARNING):
        model = GritLM()
        question = model.encode("Why do we yawn?", instruction=gritlm_instruction("Find an answer"))
        texts = [
            "The train leaves at nine.",
            "When we are tired we open our mouths and breathe in.",
        ]
        found = model.similarity(question, model.encode_document(texts))[0]
    assert found.argmax() == 1
    assert caplog.text == ""
    assert "Paris" in model.chat("What is the capital of France?", max_new_tokens=16)
