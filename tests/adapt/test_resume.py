"""Interrupted runs: they go on where they stopped, with the result of a run in one go."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace

import pytest

from gritlm.adapt import adapt, measuring, pipeline
from gritlm.adapt.pipeline import Adaptation
from gritlm.adapt.run_folder import RunFolder
from gritlm.adapt.verdict import Verdict
from gritlm.errors import InputError
from gritlm.evaluation.outcome import Report
from gritlm.train.run import checkpoint
from tests.adapt import made

STEPS = ["passages", "questions", "filter", "negatives", "rows", "chats", "tasks"]


class Interrupted(Adaptation):
    """A run that ctrl-C ends before one of its steps."""

    before = ""

    def _step(self, name, work, *, reads: Sequence[str], writes: Sequence[str]):
        if name == self.before:
            raise KeyboardInterrupt
        return super()._step(name, work, reads=reads, writes=writes)


def files(folder: RunFolder) -> dict[str, bytes]:
    names = ("passages", "questions", "filtered", "negatives", "pairs", "answers", "chats", "tasks")
    return {name: folder.path(f"{name}.jsonl").read_bytes() for name in names}


def rows_of(config, kind=Adaptation, lines=None):
    report = (lambda _: None) if lines is None else lines.append
    run = kind(config, RunFolder(made.Path(config.to)), report, False)
    try:
        run.begin()
        run.make_rows()
    finally:
        run.folder.close()
    return run


@pytest.fixture
def config(collection_folder, model_folder):
    return made.config(
        collection_folder, model_folder, kinds=("factual", "keyword", "claim"), per_passage=1
    )


def test_a_run_stopped_before_each_step_equals_one_in_one_go(
    config, collection_folder, model_folder, writer
):
    whole = rows_of(made.config(collection_folder, model_folder, **_changed(config, "whole")))
    for name in STEPS[1:]:
        Interrupted.before = name
        lines: list[str] = []
        with pytest.raises(KeyboardInterrupt):
            rows_of(config, Interrupted, lines)
        ran = [line for line in lines if "finished before" not in line and "note" not in line]
        assert len(ran) == 1, "a step that had finished ran again"
    run = rows_of(config)
    assert files(run.folder) == files(whole.folder)


def _changed(config, name: str) -> dict[str, object]:
    return {"kinds": config.kinds, "per_passage": config.per_passage, "to": f"{config.to}-{name}"}


def test_ctrl_c_while_questions_are_written_loses_one_batch(
    config, collection_folder, model_folder, writer
):
    whole = rows_of(made.config(collection_folder, model_folder, **_changed(config, "whole")))
    calls, texts = writer.calls, writer.texts
    assert calls == 3
    writer.calls = writer.texts = 0
    writer.fail_at = 2
    with pytest.raises(KeyboardInterrupt):
        rows_of(config)
    writer.fail_at = None
    run = rows_of(config)
    assert writer.texts == texts
    assert files(run.folder) == files(whole.folder)
    assert not list(run.folder.folder.glob("*.part"))


def test_an_edited_file_runs_the_steps_behind_it_again(config, writer):
    run = rows_of(config)
    path = run.folder.path("questions.jsonl")
    kept = [row for row in made.rows(path) if row["kind"] != "claim"]
    made.lines(path, kept)
    lines: list[str] = []
    again = rows_of(config, lines=lines)
    assert made.rows(path) == kept
    ran = {line.partition(":")[0] for line in lines if "finished before" not in line}
    assert {"filter"} <= ran <= {"note", "filter", "negatives", "rows", "tasks"}
    assert not any(row["kind"] == "claim" for row in again.folder.read("filtered.jsonl"))


def test_ctrl_c_in_training_goes_on_from_its_checkpoint(
    collection_folder, model_folder, monkeypatch
):
    config = made.config(collection_folder, model_folder, steps=3)
    verdict = Verdict("undecided", "undecided: it was not measured")
    measured = (Report((), "adapt", None), verdict)
    monkeypatch.setattr(measuring, "measure", lambda *_, **__: measured)
    folder = RunFolder(made.Path(config.to))

    def stop(line: str) -> None:
        if line.startswith("step 1"):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        adapt(config, report=stop, progress=False)
    assert [checkpoint.step_of(path) for path in checkpoint.checkpoints(folder.root)] == [1]
    assert "training" not in folder.steps()
    result = adapt(config, progress=False)
    assert result.counts["training"] == {"steps": 3}
    steps = [row["step"] for row in made.rows(folder.root / "metrics.jsonl")]
    assert steps == [1, 2, 3]
    assert not checkpoint.checkpoints(folder.root)

    before = (folder.root / "adapter_model.safetensors").read_bytes()
    pairs = folder.path("pairs.jsonl")
    made.lines(pairs, made.rows(pairs)[:-1])
    lines: list[str] = []
    adapt(config, report=lines.append, progress=False)
    assert any(line.startswith("training: 3 steps (") for line in lines)
    assert "training: 3 steps (finished before)" not in lines
    assert (folder.root / "adapter_model.safetensors").read_bytes() != before


HOLDER = """
import sys
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_that_another_process_uses_is_refused(config, writer):
    folder = rows_of(config).folder
    before = files(folder)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder.root.with_name(f".{folder.root.name}.lock"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(InputError) as caught:
            adapt(replace(config, seed=7), progress=False)
        assert str(caught.value) == (
            f"{folder.root} is used by another run of gritlm adapt; wait until it has ended, or "
            "name another folder"
        )
    finally:
        holder.communicate()
    lines: list[str] = []
    rows_of(config, lines=lines)
    assert files(folder) == before
    assert all("finished before" in line for line in lines if "note" not in line)


def test_the_writer_of_a_run_is_that_of_the_settings(monkeypatch):
    from gritlm.adapt.config import AdaptConfig
    from gritlm.adapt.rows.writers import EndpointWriter, OwnWriter
    from gritlm.adapt.starting_model import StartingModel

    config = AdaptConfig(documents=("x",), to="y", questions_from="openai:http://h/v1#m")
    assert isinstance(pipeline.writer_for(config, StartingModel("none")), EndpointWriter)
    own = AdaptConfig(documents=("x",), to="y")
    assert isinstance(pipeline.writer_for(own, StartingModel("none")), OwnWriter)
