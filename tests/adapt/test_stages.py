"""The recipe that measures the worth of each stage: nothing is made again that need not be."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from gritlm.adapt import adapt, measuring
from gritlm.adapt.verdict import Difference, Verdict
from gritlm.evaluation.bootstrap import Estimate
from gritlm.evaluation.outcome import Report
from tests.adapt import made

SCRIPT = Path(__file__).parents[2] / "recipes" / "adapt" / "stages.py"


@pytest.fixture
def stages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("stages", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_short_runs_reuse_the_files_of_a_whole_run(
    stages, collection_folder, model_folder, writer, monkeypatch, capsys
):
    found = (
        Difference("real-questions", 60.0, 66.5, Estimate(6.5, 2.0, 11.0)),
        Difference("answers", 10.0, 9.5, Estimate(-0.5)),
    )
    measured = (Report((), "adapt", None), Verdict("use", "use this adapter", found))
    monkeypatch.setattr(measuring, "measure", lambda *_, **__: measured)
    kinds = ("factual", "keyword", "claim")
    config = made.config(collection_folder, model_folder, kinds=kinds, per_passage=1)
    adapt(config, progress=False)
    calls = writer.calls
    out = collection_folder / "out"
    command = ["stages.py", config.to, str(out), "--steps", "1", "--stage", "all"]
    monkeypatch.setattr(sys, "argv", [*command, "--stage", "filter", "--stage", "negatives"])
    stages.main()
    assert writer.calls == calls
    lines = capsys.readouterr().err.splitlines()
    ran = [line.partition(":")[0] for line in lines if "finished before" not in line]
    assert ran.count("questions") == ran.count("tasks") == ran.count("passages") == 0
    assert ran.count("training") == 3
    assert (ran.count("filter"), ran.count("negatives")) == (1, 2)
    states = {
        name: json.loads((out / name / "adapt" / "adapt.json").read_text(encoding="utf-8"))
        for name in ("all", "filter", "negatives")
    }
    assert [state["settings"]["without"] for state in states.values()] == [
        [],
        ["filter"],
        ["negatives"],
    ]
    counts = {name: state["steps"]["filter"]["counts"] for name, state in states.items()}
    assert counts["all"] == counts["negatives"] != counts["filter"]
    stages.main()
    again = capsys.readouterr()
    assert "training: 1 steps (finished before)" in again.err
    assert again.out.splitlines() == [
        "| task | before | all stages | without filter | without negatives |",
        "|---|---:|---:|---:|---:|",
        "| real-questions | 60.0 |" + " +6.5 (+2.0 to +11.0) |" * 3,
        "| answers | 10.0 |" + " -0.5 |" * 3,
    ]


def test_a_run_that_has_not_finished_its_rows_is_refused(stages, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["stages.py", str(tmp_path), str(tmp_path / "out")])
    with pytest.raises(SystemExit):
        stages.main()
    assert "holds no run of gritlm adapt" in capsys.readouterr().err
