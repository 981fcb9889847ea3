"""``gritlm adapt`` from documents to the verdict, on a tiny model."""

from __future__ import annotations

import json

import pytest

from gritlm import GritLM
from gritlm.adapt import dry_run, pipeline
from gritlm.adapt.dry_run import DryRun
from gritlm.adapt.rows import training_rows
from tests.adapt import made

QUICK = (
    *("--kind", "keyword", "--kind", "claim", "--max-tokens", "200", "--held-out", "0.36"),
    *("--steps", "2", "--batch-size", "4", "--general", "none", "--device", "cpu"),
)


@pytest.fixture(autouse=True)
def _few_requests(monkeypatch):
    monkeypatch.setattr(training_rows, "REQUESTS", training_rows.REQUESTS[:6])


def test_a_folder_of_documents_becomes_an_adapter(run, error_of, tmp_path, model_folder):
    path = made.documents(tmp_path)
    out = tmp_path / "run"
    command = ("adapt", str(path), "--to", str(out), "--model", str(model_folder), *QUICK)
    result = run(*command)
    assert result.exit_code == 0, result.stderr
    *differences, verdict, report, folder = result.stdout.splitlines()
    assert (report, folder) == (str(out / "report" / "report.html"), str(out))
    assert verdict.startswith(("use", "do not use", "undecided"))
    assert any(line.startswith("held-out-questions ") for line in differences)
    assert "passages: 1 duplicate, 1 without sentences, 36 kept" in result.stderr
    assert "36 passages to train on" not in result.stderr
    assert "passages to train on are few" in result.stderr
    adapted = GritLM(model_folder, adapter=out, dtype="float32", device="cpu")
    assert adapted.encode(["a cat"], truncate_dim=24, precision="int8").shape == (1, 24)

    again = run(*command)
    assert again.exit_code == 0
    assert again.stdout == result.stdout
    assert "training: 2 steps (finished before)" in again.stderr
    message = error_of(*command, "--top-k", "3")
    assert "holds a run with other settings: top_k was 10 and is 3" in message

    checked = run("data", "check", str(out / "adapt" / "pairs.jsonl"), "--model", str(model_folder))
    assert checked.exit_code == 0


def test_a_dry_run_prints_examples_and_the_time(run, tmp_path, monkeypatch):
    rows = [{"question": "How long?", "passage": "x" * 999}]
    seconds = {"questions": 90.0, "training": 600.0}
    trial = DryRun({"kept": 36}, {}, {"questions": rows}, seconds, steps=40)
    monkeypatch.setattr(dry_run, "try_out", lambda *_, **__: trial)
    words = ("adapt", str(made.documents(tmp_path)), "--to", str(tmp_path / "run"), "--dry-run")
    result = run(*words)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines() == [
        "questions:",
        json.dumps({"question": "How long?", "passage": "x" * 160 + "..."}).join(("  ", "")),
        "questions: about 90 s",
        "training: about 10 min",
        "40 training steps; all steps but the report take about 12 min on this machine",
    ]
    assert not (tmp_path / "run").exists()


def test_too_few_passages_are_one_line(error_of, tmp_path, model_folder):
    path = made.documents(tmp_path, count=5)
    words = ("adapt", str(path), "--to", str(tmp_path / "run"), "--model", str(model_folder))
    assert "5 usable passages" in error_of(*words, *QUICK)


def test_ctrl_c_says_how_to_go_on(run, tmp_path, model_folder, monkeypatch):
    def stopped(*_args, **_more):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "adapt", stopped)
    words = ("adapt", str(made.documents(tmp_path)), "--to", str(tmp_path / "run"))
    result = run(*words, "--model", str(model_folder), *QUICK)
    assert result.exit_code == 130
    assert "the same command goes on from there" in result.stderr
