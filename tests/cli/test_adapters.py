"""``--adapter`` and ``--embed-adapter`` of the commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gritlm import GritLM, gritlm_instruction
from gritlm.cli.adapters import split_adapters
from gritlm.errors import InputError

TEXTS = ["The heron waits.", "Snow."]


@pytest.fixture(scope="module")
def two(
    make_adapter: Callable[..., Path], model_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    law = make_adapter(model_folder, tmp_path_factory.mktemp("law"))
    medicine = make_adapter(model_folder, tmp_path_factory.mktemp("medicine"), r=2, lora_alpha=6)
    return {"law": str(law), "medicine": str(medicine)}


def vectors(stdout: str) -> np.ndarray:
    return np.array([json.loads(line)["embedding"] for line in stdout.splitlines()])


def test_adapters_are_told_apart_by_their_names(tmp_path):
    assert split_adapters([]) == (None, {})
    assert split_adapters(["runs/law"]) == ("runs/law", {})
    assert split_adapters(["law=runs/law", "me/tax"]) == ("me/tax", {"law": "runs/law"})
    assert split_adapters(["law=runs/a=b"]) == (None, {"law": "runs/a=b"})
    folder = tmp_path / "a=b"
    folder.mkdir()
    assert split_adapters([str(folder)]) == (str(folder), {})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["runs/a", "runs/b"], "both without a name; several adapters need one each"),
        (["law=runs/a", "law=runs/b"], "--adapter law=... is given twice"),
    ],
    ids=["no names", "a name twice"],
)
def test_adapters_that_cannot_be_told_apart_are_refused(values, expected):
    with pytest.raises(InputError, match=expected):
        split_adapters(values)


def test_vectors_and_answers_are_those_of_the_adapter(run_model, model_folder, two):
    law = GritLM(model_folder, adapter=two["law"], dtype="float32", device="cpu")
    found = run_model("embed", *TEXTS, "--adapter", two["law"])
    expected = law.encode(TEXTS, instruction=gritlm_instruction())
    assert np.allclose(vectors(found.stdout), expected, atol=1e-6)
    words = ["--adapter", two["law"], "--max-new-tokens", "8", "--no-stream"]
    answer = run_model("generate", "Hello", *words)
    assert answer.stdout == law.chat("Hello", max_new_tokens=8) + "\n"


def test_an_adapter_for_embeddings_changes_vectors_alone(run_model, model_folder, two):
    law = GritLM(model_folder, adapter=two["law"], dtype="float32", device="cpu")
    found = run_model("embed", *TEXTS, "--embed-adapter", two["law"])
    assert found.exit_code == 0
    expected = law.encode(TEXTS, instruction=gritlm_instruction())
    assert np.allclose(vectors(found.stdout), expected, atol=1e-5)
    refused = run_model("generate", "Hello", "--embed-adapter", two["law"])
    assert refused.exit_code == 2
    assert "has no effect with mode='generative'" in refused.stderr


def test_a_store_is_refused_with_another_adapter(run_model, two, tmp_path):
    (tmp_path / "heron.txt").write_text("The heron waits by the river.")
    store = ["--store", str(tmp_path / "store")]
    to = ["--to", str(tmp_path / "store")]
    made = run_model("index", str(tmp_path / "heron.txt"), *to, "--adapter", two["law"])
    assert made.exit_code == 0, made.stderr
    asked = ["ask", "Where does the heron wait?", *store, "--max-new-tokens", "4"]
    assert run_model(*asked, "--adapter", two["law"]).exit_code == 0
    for other in (["--adapter", two["medicine"]], ["--embed-adapter", two["law"]], []):
        refused = run_model(*asked, *other)
        assert refused.exit_code == 2
        assert "was made by" in refused.stderr
        command = f"gritlm index DOCUMENTS --to {tmp_path / 'store'}-new --model"
        assert command in refused.stderr
        assert all(word in refused.stderr.partition(command)[2] for word in other)
        assert len(refused.stderr.strip().splitlines()) == 1


def test_an_adapter_of_another_base_is_refused(run, tiny_model, two):
    other = tiny_model(seed=3, hidden_size=24)
    for option in ("--adapter", "--embed-adapter"):
        words = ["--model", str(other), option, two["law"], "--device", "cpu"]
        refused = run("embed", "Snow.", *words)
        assert refused.exit_code == 2
        assert "this adapter was made for" in refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1
