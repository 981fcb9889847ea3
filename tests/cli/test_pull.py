"""``gritlm pull``, and the default model that commands take when they are given none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from gritlm.lm.hub import default_model
from gritlm.lm.hub.model_config import ModelSettings


@pytest.fixture
def cached(
    tmp_path: Path,
    model_folder: Path,
    make_adapter: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A cache folder with a tiny base, and an adapter for it, in the place of the real ones."""
    monkeypatch.setenv("GRITLM_CACHE", str(tmp_path / "cache"))
    folder = default_model.folder()
    shutil.copytree(model_folder, folder)
    ModelSettings(template="tokenizer", trained_to_embed=False).save(folder)
    (folder / default_model.SOURCE_FILE).write_text(json.dumps({"source": "wheel"}))
    adapter = make_adapter(model_folder, tmp_path / "adapter")
    ModelSettings(template="gritlm").save(adapter)
    monkeypatch.setattr(default_model, "ADAPTER", adapter)
    return folder


def test_pull_prints_the_folder_and_nothing_else(run, cached: Path):
    result = run("pull")
    assert result.exit_code == 0
    assert result.stdout == f"{cached}\n"


@pytest.mark.parametrize("words", [(), ("--model", "default")])
def test_a_command_without_a_model_takes_the_default_one(run, cached: Path, words):
    facts = json.loads(run("info", "--json", "--device", "cpu", *words).stdout)
    assert facts["source"] == str(cached)
    assert facts["adapter"] == str(default_model.ADAPTER)
    assert (facts["template"], facts["trained_to_embed"]) == ("gritlm", True)


def test_the_base_of_the_default_model_goes_by_its_name(run, cached: Path):
    facts = json.loads(run("info", "--json", "--device", "cpu", "--model", "base").stdout)
    assert (facts["source"], facts["adapter"]) == (str(cached), None)
    assert (facts["template"], facts["trained_to_embed"]) == ("tokenizer", False)


def test_an_adapter_of_ones_own_takes_the_place_of_the_default_one(run, cached: Path, tmp_path):
    own = shutil.copytree(default_model.ADAPTER, tmp_path / "own")
    facts = json.loads(run("info", "--json", "--device", "cpu", "--adapter", str(own)).stdout)
    assert (facts["source"], facts["adapter"]) == (str(cached), str(own))


def test_that_a_model_is_not_trained_to_embed_is_said_beside_the_results(run, cached: Path):
    options = ("--model", "base", "--dtype", "float32", "--device", "cpu")
    result = run("embed", "text", *options)
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 1
    assert "is not trained to embed" in result.stderr
    assert run("embed", "text", *options, "--quiet").stderr == ""
    assert run("embed", "text", *options[2:]).stderr == ""  # the default model is


def test_a_cache_folder_that_cannot_be_made_is_an_error_of_one_line(
    error_of, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file = tmp_path / "file"
    file.write_text("in the way")
    monkeypatch.setenv("GRITLM_CACHE", str(file))
    for words in (("pull",), ("embed", "text")):
        assert str(file) in error_of(*words)


def test_an_unknown_source_to_pull_from_is_refused(error_of):
    message = error_of("pull", "--source", "floppy")
    assert all(name in message for name in ("floppy", "auto", "wheel", "hub"))


def test_the_default_model_with_towers_reads_images_and_sound(run, towers_folder: Path):
    facts = json.loads(run("info", "--json", "--device", "cpu", "--model", "senses").stdout)
    assert facts["reads"] == "text, image, sound"


def test_pull_of_towers_that_exist_prints_their_folder(run, towers_folder: Path):
    result = run("pull", "senses")
    assert result.stdout == f"{towers_folder}\n"


def test_the_model_hub_is_no_source_of_the_towers(error_of):
    assert "the towers come from the package index" in error_of("pull", "senses", "--source", "hub")
