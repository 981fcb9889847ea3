"""``gritlm pull``, and the default model that commands take when they are given none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from gritlm.lm import default
from gritlm.lm.settings import Settings


@pytest.fixture
def cached(tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder that holds a tiny model in the place of the default one."""
    monkeypatch.setenv("GRITLM_CACHE", str(tmp_path / "cache"))
    folder = default.folder()
    shutil.copytree(model_folder, folder)
    Settings(template="tokenizer", trained_to_embed=False).save(folder)
    (folder / default.SOURCE_FILE).write_text(json.dumps({"source": "wheel"}))
    return folder


def test_pull_prints_the_folder_and_nothing_else(run, cached: Path):
    result = run("pull")
    assert result.exit_code == 0
    assert result.stdout == f"{cached}\n"


def test_a_command_without_a_model_takes_the_default_one(run, cached: Path):
    facts = json.loads(run("info", "--json", "--device", "cpu").stdout)
    assert facts["source"] == str(cached)
    assert facts["template"] == "tokenizer"


def test_that_a_model_is_not_trained_to_embed_is_said_beside_the_results(run, cached: Path):
    result = run("embed", "text", "--dtype", "float32", "--device", "cpu")
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 1
    assert "not yet trained to embed" in result.stderr
    quiet = run("embed", "text", "--dtype", "float32", "--device", "cpu", "--quiet")
    assert quiet.stderr == ""


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
