"""``gritlm export``: forms, facts of the model card, and the target."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import gguf
import pytest
from huggingface_hub import ModelCard

from gritlm import GritLM
from gritlm.evaluation.results import TaskResult


def test_a_folder_is_written_with_the_facts_and_scores_of_its_card(run_model, lm, tmp_path: Path):
    result = TaskResult("STS-dev", "embedding", "STS", "cosine_spearman", 84.1, count=9, seconds=1)
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"models": [{"results": [asdict(result)]}]}), encoding="utf-8")
    out = tmp_path / "out"
    words = ["--license", "mit", "--language", "en", "--language", "de", "--results", str(report)]
    done = run_model("export", str(out), *words)
    assert done.exit_code == 0, done.stderr
    data = ModelCard((out / "README.md").read_text(encoding="utf-8")).data
    assert (data.license, data.language) == ("mit", ["en", "de"])
    assert data.eval_results[0].metric_value == 84.1
    again = GritLM(out, dtype="float32", device="cpu")
    assert again.chat("Hello", max_new_tokens=8) == lm.chat("Hello", max_new_tokens=8)


def test_a_gguf_file_has_the_type_that_was_asked_for(run_model, tmp_path: Path):
    out = tmp_path / "model.gguf"
    done = run_model("export", str(out), "--format", "gguf", "--gguf-type", "f16")
    assert done.exit_code == 0, done.stderr
    kinds = {tensor.tensor_type for tensor in gguf.GGUFReader(out).tensors}
    assert kinds == {gguf.GGMLQuantizationType.F16, gguf.GGMLQuantizationType.F32}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "there is no target; pass a folder, or --push-to OWNER/NAME"),
        (["out", "--results", "missing.json"], "missing.json"),
        (["out", "--results", "broken.json"], "broken.json is no report.json of gritlm eval"),
    ],
)
def test_a_wrong_call_is_one_line(words, message, run_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("broken.json").write_text("{}", encoding="utf-8")
    done = run_model("export", *words)
    assert done.exit_code == 2
    assert message in done.stderr
    assert not Path("out").exists()
