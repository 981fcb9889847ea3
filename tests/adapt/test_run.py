"""Whole runs on a tiny model: their files, their report, and the way they go on."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import typer

from gritlm import GritLM
from gritlm.adapt import adapt
from gritlm.adapt.run_folder import RunFolder
from gritlm.cli.app import create_app
from gritlm.errors import InputError
from gritlm.rag import RagEngine
from gritlm.train.config import SourceConfig
from gritlm.train.data import sources
from tests.adapt import made

DOCUMENT = (Path(__file__).parents[2] / "docs" / "adapt.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, model_folder):
    """The result of the code in docs/adapt.md, with quick settings; tests do not change it."""
    folder = tmp_path_factory.mktemp("adapt")
    made.documents(folder)
    (code,) = re.findall(r"^```python\n(.*?)^```$", DOCUMENT, re.M | re.S)
    shown = 'AdaptConfig(documents=("notes",), to="my-field", steps=2)'
    assert shown in code
    namespace = {"quick": made.config(folder, model_folder)}
    exec(compile(code.replace(shown, "quick"), "adapt.md", "exec"), namespace)
    return namespace["result"]


def test_the_commands_that_are_shown_have_the_options_of_the_program():
    program = typer.main.get_command(create_app())
    lines = [line for line in DOCUMENT.splitlines() if line.startswith("gritlm ")]
    assert len(lines) == 6
    for line in lines:
        _, name, *words = shlex.split(line, comments=True)
        program.commands[name].make_context(name, words)


def test_every_file_of_a_step_is_in_the_document(finished):
    for path in (finished.folder / "adapt").glob("*.jsonl"):
        assert path.name in ("tasks.jsonl",) or f"`{path.name}`" in DOCUMENT


def test_a_run_becomes_an_adapter_with_a_report_and_a_verdict(finished, model_folder):
    result = finished
    adapted = GritLM(result.folder, dtype="float32", device="cpu")
    assert adapted.encode(["the cat"]).shape == (1, 48)
    assert adapted.adapter == str(result.folder)
    report = json.loads((result.report / "report.json").read_text())
    assert [each["name"] for each in report["models"]] == ["before", "adapted"]
    assert (result.report / "report.html").is_file()
    assert result.verdict.decision in ("use", "do not use", "undecided")
    assert result.verdict.sentence.startswith(result.verdict.decision)
    assert {each.task for each in result.verdict.differences} >= {"held-out-questions"}


def test_a_store_of_the_model_before_is_refused_with_the_command_that_indexes_again(
    finished, model_folder, tmp_path
):
    options = {"dtype": "float32", "device": "cpu"}
    with RagEngine.open(tmp_path / "store", GritLM(model_folder, **options)) as engine:
        engine.add([{"id": "cat", "text": made.text("cat", 2)}])
    adapted = GritLM(model_folder, adapter=finished.folder, **options)
    with pytest.raises(InputError, match="gritlm index"):
        RagEngine.open(tmp_path / "store", adapted)
    with RagEngine.open(tmp_path / "other", adapted) as engine:
        engine.add([{"id": "cat", "text": made.text("cat", 2)}])
        assert engine.documents()[0].id == "cat"


def test_the_adapter_is_a_model_of_its_own_over_a_shared_base(finished, model_folder):
    base = GritLM(model_folder, adapters={"field": finished.folder}, dtype="float32", device="cpu")
    alone = GritLM(model_folder, adapter=finished.folder, dtype="float32", device="cpu")
    vectors = [each.encode(["a cat"]) for each in (base.with_adapter("field"), alone, base)]
    assert abs(vectors[0] - vectors[1]).max() < 1e-5
    assert abs(vectors[0] - vectors[2]).max() > 1e-5


def test_training_rows_are_read_by_the_check_and_hold_no_held_out_text(finished):
    result = finished
    folder = RunFolder(result.folder)
    passages = folder.read("passages.jsonl")
    held_out = [row["text"] for row in passages if row["split"] == "held-out"]
    assert held_out
    for name, kind in (("pairs", "embedding"), ("answers", "rag"), ("chats", "generative")):
        path = folder.path(f"{name}.jsonl")
        if path.stat().st_size:
            assert len(sources.load(SourceConfig(str(path)), kind))
        text = path.read_text(encoding="utf-8")
        assert not any(sentence in text for each in held_out for sentence in each.split(". "))


def test_duplicates_and_tables_are_counted_and_left_out(finished):
    result = finished
    assert result.counts["passages"]["duplicate"] == 1
    assert result.counts["passages"]["without sentences"] == 1
    assert result.counts["passages"]["kept"] == 36


def test_a_finished_run_does_nothing_when_given_again(finished, model_folder):
    result = finished
    before = {path: path.stat().st_mtime_ns for path in result.folder.rglob("*") if path.is_file()}
    lines: list[str] = []
    again = adapt(
        made.config(result.folder.parent, model_folder), report=lines.append, progress=False
    )
    assert again == result
    assert all("finished before" in line for line in lines if not line.startswith("note"))
    after = {path: path.stat().st_mtime_ns for path in result.folder.rglob("*") if path.is_file()}
    assert after == before


def test_other_settings_and_other_documents_are_refused(finished, model_folder):
    result = finished
    folder = result.folder.parent
    config = made.config(folder, model_folder)
    with pytest.raises(InputError, match="other settings: top_k was 10 and is 7; use those"):
        adapt(replace(config, top_k=7), progress=False)
    path = folder / "animals.jsonl"
    text = path.read_text()
    try:
        path.write_text(text + json.dumps({"id": "new", "text": made.text("gecko", 99)}) + "\n")
        with pytest.raises(InputError, match="their files have changed"):
            adapt(config, progress=False)
    finally:
        path.write_text(text)
