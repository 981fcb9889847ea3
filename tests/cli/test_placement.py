"""Options that quantise and place the weights, in every command that loads a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gritlm import GritLM, gritlm_instruction
from gritlm.cli.options import PlacementOptions

TEXT = "The heron waits."
COMMANDS = {
    "serve": (),
    "chat": (),
    "ask": ("Why?", "--store", "store"),
    "index": ("docs", "--to", "store"),
    "search": ("Why?", "README.md"),
}


@pytest.fixture
def model(tiny_model) -> list[str]:
    folder = tiny_model(hidden_size=64, intermediate_size=128)
    return ["--model", str(folder), "--device", "cpu", "--dtype", "float32"]


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_embed_with_quantised_weights(run, model, quantization, monkeypatch):
    result = run("embed", TEXT, *model, "--quantization", quantization)
    assert result.exit_code == 0, result.stderr
    expected = GritLM(model[1], dtype="float32", device="cpu", quantization=quantization)
    vector = json.loads(result.stdout)["embedding"]
    assert vector == expected.encode(TEXT, instruction=gritlm_instruction()).tolist()
    monkeypatch.setenv("GRITLM_QUANTIZATION", quantization)
    assert run("embed", TEXT, *model).stdout == result.stdout
    assert json.loads(run("info", "--json", *model).stdout)["quantization"] == quantization


def test_index_and_ask_with_quantised_weights(run, model, tmp_path: Path):
    document = tmp_path / "a.txt"
    document.write_text("Water boils at 100 degrees. Cats sleep most of the day.")
    words = [*model, "--quantization", "int8"]
    store = str(tmp_path / "store")
    assert run("index", str(document), "--to", store, *words).exit_code == 0
    answer = ("ask", "What boils?", "--store", store, "--max-new-tokens", "4")
    assert run(*answer, *words).exit_code == 0
    refused = run(*answer, *model)
    assert refused.exit_code == 2
    assert "other" in refused.stderr or "another" in refused.stderr


@pytest.mark.parametrize("command", list(COMMANDS))
def test_other_commands_refuse_several_processes(run, model, command):
    words = model[2:] if command == "serve" else model
    result = run(command, *COMMANDS[command], *words, "--tensor-parallel-size", "2")
    assert result.exit_code == 2
    assert "this command runs in one process; embed and generate run in several" in result.stderr


def test_stdin_is_not_shared_among_processes(run, model):
    for words in (("embed", "-"), ("generate", "-")):
        result = run(*words, *model, "--tensor-parallel-size", "2", stdin="a")
        assert result.exit_code == 2
        assert "and stdin: each process would read a part" in result.stderr


def test_without_torchrun_the_command_is_named(run, model):
    result = run("embed", TEXT, *model, "--tensor-parallel-size", "2")
    assert result.exit_code == 2
    assert "torchrun --nproc-per-node 2 -m gritlm" in result.stderr


def test_a_format_that_the_machine_lacks_is_refused(run, model):
    result = run("embed", TEXT, *model, "--quantization", "nf4")
    assert result.exit_code == 2
    assert "needs a CUDA GPU and bitsandbytes" in result.stderr
    assert "int8, int4, nf4, fp8" in run("embed", TEXT, "--quantization", "q4").stderr.replace(
        "'", ""
    )


def test_device_map_and_length(run, model):
    mapped = [*model[:2], *model[4:], "--device-map", "auto"]
    plain = run("embed", TEXT, *model).stdout
    assert run("embed", TEXT, *mapped).stdout == plain
    result = run("embed", TEXT * 20, *model, "--max-model-len", "16", "--max-length", "32")
    assert result.exit_code == 2
    assert "max_length=32, the model takes at most 16 tokens" in result.stderr


def test_compiled_steps_are_an_option_of_the_model():
    assert PlacementOptions(compile=True).placement() == {"compile": True}
    assert PlacementOptions().placement() == {}
