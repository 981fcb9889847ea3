"""Dry runs on tiny random models: all stages of the default model, and the recipes for Qwen3."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules

from gritlm import GritLM
from gritlm.train import TrainConfig, train
from tests import tiny
from tests.train import runs

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "default"
KINDS = {
    "embedding": runs.PAIRS[:8],
    "scored": runs.SCORED[:8],
    "generative": runs.CHATS[:8],
    "rag": runs.QUESTIONS[:8],
}
SMALL = (
    "training.max_steps=3",
    "training.save_steps=1",
    "training.warmup_steps=0",
    "training.bf16=false",
    "training.per_device_train_batch_size=4",
    "training.per_device_generative_bs=4",
)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like the repository, with a few rows in each file that a stage reads."""
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    folder = tmp_path / "data" / "default"
    folder.mkdir(parents=True)
    for path in [*RECIPE.glob("*.toml"), *(ROOT / "recipes").glob("qwen3-*.toml")]:
        data = TrainConfig.from_toml(path).data
        for source in (*data.embedding, *data.generative, *data.rag):
            rows = KINDS[Path(source.path).name.partition("-")[0]]
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (tmp_path / source.path).write_text(lines, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(RECIPE))
    return tmp_path


@pytest.fixture
def teacher(tmp_path: Path) -> str:
    body = modules.Transformer(str(tiny.folder(tmp_path / "teacher-base", seed=7)))
    pool = modules.Pooling(body.get_embedding_dimension(), pooling_mode="mean")
    SentenceTransformer(modules=[body, pool], device="cpu").save(str(tmp_path / "teacher"))
    return str(tmp_path / "teacher")


def in_process(called: list[str]) -> Callable[..., None]:
    """Trains where make.py would start a process; other scripts are noted."""

    def call(*command: object) -> None:
        words = list(map(str, command))
        if words[0] != "-m":
            called.append(Path(words[0]).name)
            return
        file, *options = words[3:]
        called.append(Path(file).name)
        train(TrainConfig.from_toml(file, options[1::2]), progress=False)

    return call


def options(changes: Sequence[str]) -> list[str]:
    return [part for each in changes for part in ("--set", each)]


def test_one_command_makes_the_default_model_stage_by_stage(workplace, teacher, monkeypatch):
    make: Any = importlib.import_module("make")
    base = tiny.folder(workplace / "base", max_position_embeddings=1024)
    called: list[str] = []
    monkeypatch.setattr(make, "_call", in_process(called))
    command = [str(workplace), "--teacher", teacher, *options([f"model.base={base}", *SMALL])]
    make.main(command)
    stages = [name for name in called if name.endswith(".toml")]
    assert stages == [stage.file for stage in make.STAGES]
    assert called[:2] == ["prepare.py", "negatives.py"]
    assert called.count("own_answers.py") == 3
    made = GritLM(make.FINAL, dtype="float32", device="cpu")
    assert made.settings.trained_to_embed
    assert made.encode(["a text"]).shape == (1, 48)
    last = load_file(make.FINAL / make.FINISHED)
    parts = [load_file(p / make.FINISHED) for p in make.last_checkpoints(make.STAGES[-1].output, 3)]
    begun = load_file(make.RUNS / "default-mean-stage9" / make.FINISHED)
    for name, value in last.items():
        mean = torch.stack([part[name].float() for part in parts]).mean(dim=0)
        mean = (mean + begun[name].float()) / 2
        assert torch.allclose(value, mean, atol=1e-6), name

    called.clear()
    make.main(command)
    assert called == []  # all is there


def test_refusals_are_left_out(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPE))
    make: Any = importlib.import_module("make")
    rows = [{"answer": "Paris"}, {"answer": "Not in the passages."}, {"answer": "Rome"}]
    lines = [json.dumps(row) + "\n" for row in rows]
    (tmp_path / "all.jsonl").write_text("".join(lines), encoding="utf-8")
    make.leave_out_refusals(tmp_path / "all.jsonl", tmp_path / "kept.jsonl")
    kept = (tmp_path / "kept.jsonl").read_text(encoding="utf-8")
    assert kept == lines[0] + lines[2]


def test_a_stopped_stage_goes_on_from_its_checkpoint(workplace, teacher, monkeypatch, capsys):
    make: Any = importlib.import_module("make")
    base = tiny.folder(workplace / "base", max_position_embeddings=1024)
    called: list[str] = []
    monkeypatch.setattr(make, "_call", in_process(called))
    command = [str(workplace), "--teacher", teacher, "--until", "stage1"]
    command += options([f"model.base={base}", *SMALL])
    make.main(command)
    output = make.STAGES[0].output
    before = runs.weights(output)
    (output / make.FINISHED).unlink()
    checkpoints = sorted(path.name for path in output.glob("checkpoint-*"))
    assert checkpoints == ["checkpoint-000002", "checkpoint-000003"]
    for path in (output / checkpoints[1]).rglob("*"):
        if path.is_file():
            path.unlink()
    for path in sorted((output / checkpoints[1]).rglob("*"), reverse=True):
        path.rmdir()
    (output / checkpoints[1]).rmdir()
    make.main(command)
    after = runs.weights(output)
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)


@pytest.mark.parametrize("name", ["qwen3-0.6b", "qwen3-1.7b"])
def test_a_recipe_for_qwen3_trains_a_tiny_model_of_the_family(workplace, teacher, name):
    base = tiny.folder(workplace / "base", "qwen3", max_position_embeddings=1024)
    changes = [f"model.base={base}", f"loss.teacher={teacher}", *SMALL]
    result = train(TrainConfig.from_toml(f"recipes/{name}.toml", changes), progress=False)
    assert result.steps == 3
    model = GritLM(result.output_dir, dtype="float32", device="cpu")
    assert model.encode(["a text"]).shape == (1, 48)
    assert model.settings.template == "gritlm"
