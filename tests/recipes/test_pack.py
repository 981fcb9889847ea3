"""pack.py: a run's adapter becomes the one that is shipped, or is refused."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from gritlm import GritLM
from gritlm.errors import GritLMError, InputError, ModelError
from gritlm.lm.hub import default_model, lora
from gritlm.lm.hub.model_config import ModelSettings
from gritlm.lm.hub.weight_sources import HUB
from tests import tiny

RECIPE = Path(__file__).parents[2] / "recipes" / "default"
SETTINGS = ModelSettings(template="gritlm", query_instruction="Find the answer")


@pytest.fixture
def pack(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(RECIPE))
    return importlib.import_module("pack")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base by the name of the default model's."""
    return tiny.folder(tmp_path_factory.mktemp("models") / default_model.NAME)


@pytest.fixture
def run(
    base: Path, make_adapter: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    monkeypatch.setattr(default_model, "ensure", lambda report=None: base)
    folder = make_adapter(base, tmp_path / "run")
    SETTINGS.save(folder)
    return folder


def edit(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | changes), encoding="utf-8")


def test_what_is_packed_loads_and_is_the_run_rounded(pack, run, tmp_path, monkeypatch, capsys):
    output = tmp_path / "shipped"
    output.mkdir()
    (output / "README.md").write_text("written by hand")
    monkeypatch.setattr(sys, "argv", ["pack.py", str(run), "--output", str(output)])
    pack.main()
    assert "bytes of weights" in capsys.readouterr().out
    names = {path.name for path in output.iterdir()}
    assert names == {"README.md", lora.CONFIG_FILE, lora.WEIGHTS_FILE, "gritlm.json"}
    assert (output / "README.md").read_text() == "written by hand"
    assert lora.base_named(str(output)) == HUB
    made, before = load_file(output / lora.WEIGHTS_FILE), load_file(run / lora.WEIGHTS_FILE)
    assert made.keys() == before.keys()
    assert all(torch.equal(made[name], before[name].bfloat16()) for name in made)
    shipped, trained = (GritLM(folder, dtype="float32", device="cpu") for folder in (output, run))
    assert shipped.settings == trained.settings == SETTINGS
    cosine = shipped.encode("Cats sleep") @ trained.encode("Cats sleep")
    assert np.isclose(cosine, 1, atol=1e-4)


def test_the_same_run_is_packed_in_the_same_way(pack, run, tmp_path):
    targets = json.loads((run / lora.CONFIG_FILE).read_text(encoding="utf-8"))["target_modules"]
    pack.pack(run, tmp_path / "one")
    edit(run / lora.CONFIG_FILE, target_modules=targets[::-1])
    pack.pack(run, tmp_path / "two")
    for name in (lora.CONFIG_FILE, "gritlm.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_of_several_runs_the_mean_is_packed(pack, run, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(run, other)
    one = load_file(run / lora.WEIGHTS_FILE)
    two = {name: torch.randn_like(value) for name, value in one.items()}
    save_file(two, other / lora.WEIGHTS_FILE)
    pack.pack(run, tmp_path / "out", other)
    made = load_file(tmp_path / "out" / lora.WEIGHTS_FILE)
    for name, value in made.items():
        assert torch.equal(value, ((one[name] + two[name]) / 2).bfloat16())


def test_runs_of_other_settings_have_no_mean(pack, run, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(run, other)
    edit(other / lora.CONFIG_FILE, lora_alpha=99)
    with pytest.raises(InputError, match="other: trained with other settings than"):
        pack.pack(run, tmp_path / "out", other)
    assert not (tmp_path / "out").exists()


def test_weights_that_are_too_large_are_refused_and_what_was_there_stays(
    pack, run, tmp_path, monkeypatch
):
    pack.pack(run, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    monkeypatch.setattr(pack, "MOST_BYTES", 1000)
    with pytest.raises(InputError, match="at most 1,000 are shipped"):
        pack.pack(run, tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def no_numbers(run: Path) -> None:
    tensors = load_file(run / lora.WEIGHTS_FILE)
    next(iter(tensors.values())).fill_(float("inf"))
    save_file(tensors, run / lora.WEIGHTS_FILE)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda run: (run / lora.WEIGHTS_FILE).unlink(), "expected the output folder of a finish"),
        (lambda run: (run / "gritlm.json").unlink(), "expected settings with trained_to_embed"),
        (
            lambda run: ModelSettings(template="gritlm", trained_to_embed=False).save(run),
            "trained_to_e",
        ),
        (lambda run: ModelSettings().save(run), "template is 'auto'"),
        (
            lambda run: edit(run / lora.CONFIG_FILE, base_model_name_or_path="other/model"),
            "its base is other/model; expected that of the default model",
        ),
        (no_numbers, "holds NaN or infinite numbers"),
    ],
)
def test_a_run_that_cannot_be_shipped_says_why(pack, run, tmp_path, harm, said):
    harm(run)
    with pytest.raises(GritLMError, match=said):
        pack.pack(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_adapter_that_does_not_fit_the_base_is_refused(
    pack, run, tiny_model, tmp_path, monkeypatch
):
    other = tiny_model(hidden_size=96)
    monkeypatch.setattr(default_model, "ensure", lambda report=None: other)
    with pytest.raises(ModelError, match="this adapter was made for"):
        pack.pack(run, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_an_error_is_one_line(pack, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["pack.py", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"^pack\.py: error: .*no adapter_config\.json"):
        pack.main()
