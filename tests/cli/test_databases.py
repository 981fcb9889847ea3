"""``gritlm index --index`` and ``gritlm store`` with passages in another database."""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest


def test_an_embedded_qdrant_is_made_listed_verified_and_changed(run, model_options, tmp_path):
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "ball.md").write_text("Ann has a red ball.")
    store = str(tmp_path / "store")
    index = ("index", str(notes), "--to", store)
    made = run(*index, "--index", "qdrant", *model_options)
    assert made.exit_code == 0, made.output
    kept = json.loads((tmp_path / "store" / "engine.json").read_text())
    assert kept["index"] == "qdrant"
    assert (tmp_path / "store" / "qdrant").is_dir()
    assert not (tmp_path / "store" / "index").exists()
    assert "notes/ball.md" in run("store", "list", store).output
    assert "1 passages, 0 problems" in run("store", "verify", store).output
    rebuilt = run("store", "rebuild", store, *model_options)
    assert "1 passages kept, 0 embedded again" in rebuilt.output
    again = run(*index, *model_options)
    assert "unchanged: 1 document" in again.output
    asked = run("ask", "What colour is the ball?", "--store", store, *model_options)
    assert asked.exit_code == 0, asked.output
    deleted = run("store", "delete", store, "notes/ball.md", *model_options)
    assert "deleted notes/ball.md: 1 passages" in deleted.output
    other = run(*index, "--index", "s3://bucket/path", *model_options)
    assert other.exit_code == 2
    assert "was made with index=qdrant" in other.output


def test_an_index_for_several_stores_is_refused(run, model_options, tmp_path):
    stores = [word for name in "ab" for word in ("--store", f"{name}={tmp_path / name}")]
    refused = run("serve", model_options[1], *stores, "--index", "qdrant", "--port", "0")
    assert refused.exit_code == 2
    assert "--index qdrant needs one --store, not 2" in refused.output


@pytest.mark.skipif(find_spec("docling") is not None, reason="docling is installed")
@pytest.mark.parametrize("words", [("serve", "a model", "--store"), ("index", ".", "--to")])
def test_a_reader_that_is_not_installed_is_named_before_anything_is_made(run, words, tmp_path):
    folder = tmp_path / "store"
    refused = run(*words, str(folder), "--reader", "docling")
    assert refused.exit_code != 0
    assert "the reader docling needs docling, which is not installed" in refused.output
    assert not folder.exists()
