"""lm-eval's command line with ``--model gritlm``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from gritlm import GritLM
from gritlm.cli.app import create_app
from gritlm.errors import UnknownArgumentError
from gritlm.evaluation.generation.lm_eval_command import LmEvalGritLM

ROWS = [
    {"question": "Ann has a red ball; what colour is it?", "choices": ["red", "blue"], "gold": 0},
    {"question": "Water freezes at", "choices": ["0 degrees", "100 degrees"], "gold": 0},
    {"question": "Dogs like", "choices": ["boiling", "walks", "the lazy fox"], "gold": 1},
]
TASK = """task: tiny_choice
dataset_path: json
dataset_kwargs:
  data_files: {{test: {rows}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{gold}}}}"
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    made = tmp_path / "tasks"
    made.mkdir()
    rows = made / "rows.jsonl"
    rows.write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    (made / "tiny_choice.yaml").write_text(TASK.format(rows=rows), encoding="utf-8")
    return made


def likelihood(model: GritLM, context: str, continuation: str) -> float:
    """Return the log-likelihood of a continuation, by one forward pass."""
    before = len(model.tokenizer(context)["input_ids"])
    ids = torch.tensor([model.tokenizer(context + continuation)["input_ids"]])
    with torch.inference_mode():
        logits = model.model(ids).logits[0].log_softmax(dim=-1)
    return sum(float(logits[place - 1, ids[0, place]]) for place in range(before, ids.shape[1]))


@pytest.mark.filterwarnings("ignore:The distutils package is deprecated:DeprecationWarning")
def test_the_command_of_lm_eval_measures_a_folder(folder, tasks, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    words = ["--tasks", "tiny_choice", "--include_path", str(tasks), "--device", "cpu"]
    words += ["--model", "gritlm", "--model_args", f"pretrained={folder},dtype=float32"]
    words += ["--output_path", str(tmp_path / "out"), "--log_samples"]
    done = CliRunner().invoke(create_app(), ["lm-eval", "run", *words])
    assert done.exit_code == 0, done.output
    (results,) = (tmp_path / "out").rglob("results_*.json")
    (samples,) = (tmp_path / "out").rglob("samples_*.jsonl")
    model = GritLM(folder, device="cpu", dtype="float32")
    right = 0
    for line in samples.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        found = [float(answer[0]) for answer in row["filtered_resps"]]
        doc = row["doc"]
        expected = [likelihood(model, doc["question"], f" {word}") for word in doc["choices"]]
        assert found == pytest.approx(expected, abs=1e-3)
        right += expected.index(max(expected)) == doc["gold"]
    scores = json.loads(results.read_text(encoding="utf-8"))["results"]["tiny_choice"]
    assert scores["acc,none"] == pytest.approx(right / len(ROWS))


def test_an_unknown_argument_of_the_model_is_refused():
    with pytest.raises(UnknownArgumentError, match="unknown name 'pretraned'; did you mean"):
        LmEvalGritLM(pretraned="x")


def test_a_batch_size_is_reported_as_ignored(folder, caplog):
    model = LmEvalGritLM(str(folder), dtype="float32", device="cpu", batch_size=16)
    assert model.model.mode == "generative"
    assert "the batch size is ignored" in caplog.text
