"""Checkpoints to go on from: older ones and broken ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gritlm.errors import GritLMError
from gritlm.train.config import TrainConfig
from gritlm.train.run import metrics_log
from gritlm.train.trainer import train
from tests.train import runs

KINDS: dict[str, dict[str, Any]] = {
    "whole": {"projection": 16},
    "lora": {"lora": True, "projection": 16, "lora_target_modules": ("q_proj", "lm_head")},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TrainConfig]:
    """Runs of three steps with a checkpoint after the second one."""
    made = {}
    for kind, model in KINDS.items():
        made[kind] = runs.make(
            tmp_path_factory.mktemp(kind), model=model, training={"save_steps": 2}
        )
        train(made[kind])
    return made


@pytest.fixture
def resume(
    finished: dict[str, TrainConfig], tmp_path: Path
) -> Callable[[str], tuple[TrainConfig, Path]]:
    """A copy of a run to go on with, and its checkpoint, to be damaged."""

    def call(kind: str) -> tuple[TrainConfig, Path]:
        shutil.copytree(finished[kind].training.output_dir, tmp_path / "out")
        run = runs.elsewhere(finished[kind], "out", resume_from_checkpoint=True)
        moved = runs.replace(run.training, output_dir=str(tmp_path / "out"))
        return runs.replace(run, training=moved), tmp_path / "out" / "checkpoint-000002"

    return call


def refused(run: TrainConfig) -> str:
    with pytest.raises(GritLMError) as caught:
        train(run)
    text = str(caught.value)
    assert "\n" not in text
    assert "checkpoint-000002" in text
    assert len(text) < 700
    return text


def change_state(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "training" / "state.json"
    state = json.loads(path.read_text(encoding="utf-8"))
    change(state)
    path.write_text(json.dumps(state), encoding="utf-8")


def test_a_setting_that_is_new_since_a_checkpoint_had_its_default(resume):
    run, folder = resume("whole")
    change_state(folder, lambda state: state["settings"].pop("model.use_dora"))
    assert train(run).steps == 3


NEEDED = [
    ("whole", "model.safetensors"),
    ("whole", "config.json"),
    ("whole", "tokenizer.json"),
    ("lora", "adapter_model.safetensors"),
    ("lora", "adapter_config.json"),
    ("lora", "gritlm_projection.safetensors"),
    ("lora", "training/optimizer.pt"),
    ("whole", "training/random.pt"),
    ("whole", "training/state.json"),
]


@pytest.mark.parametrize(("kind", "name"), NEEDED)
@pytest.mark.parametrize("damage", ["half", "empty", "no object"])
def test_a_damaged_file_is_refused_in_a_line(resume, kind, name, damage):
    run, folder = resume(kind)
    data = (folder / name).read_bytes()
    damaged = {"half": data[: len(data) // 2], "empty": b"", "no object": b"[]"}
    (folder / name).write_bytes(damaged[damage])
    text = refused(run)
    assert "weights_only" not in text


@pytest.mark.parametrize(
    ("kind", "name"), [*NEEDED, ("whole", "gritlm.json"), ("lora", "tokenizer_config.json")]
)
def test_a_missing_file_is_refused_in_a_line(resume, kind, name):
    run, folder = resume(kind)
    (folder / name).unlink()
    refused(run)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.clear(), "no 'step' that can be used"),
        (lambda state: state.update(step="2"), "no 'step' that can be used"),
        (lambda state: state.update(step=0), "step = 0; expected at least 1"),
        (lambda state: state.update(feed=[]), "no 'feed' that can be used"),
        (lambda state: state["feed"]["streams"].pop("embedding"), "no place in the embedding"),
        (lambda state: state["feed"].update(skipped=None), "no place in the embedding"),
        (lambda state: state["feed"]["streams"]["generative"].update(position=[10**9]), "damaged"),
        (lambda state: state["feed"]["streams"]["generative"].update(draws=-1), "damaged"),
        (lambda state: state["feed"]["streams"]["generative"].pop("pass"), "damaged"),
        (lambda state: state["settings"].clear(), "was made with other settings"),
    ],
)
def test_a_damaged_state_is_refused_in_a_line(resume, change, message):
    run, folder = resume("whole")
    change_state(folder, change)
    with pytest.raises(GritLMError, match=message) as caught:
        train(run)
    assert "\n" not in str(caught.value)


def test_moments_of_another_size_or_none_are_refused(resume):
    run, folder = resume("whole")
    path = folder / "training" / "optimizer.pt"
    whole = torch.load(path, weights_only=True)
    name = next(name for name in whole["state"] if "q_proj" in name)
    for damaged in ({**whole["state"][name], "exp_avg": torch.zeros(3)}, {}):
        torch.save({**whole, "state": {**whole["state"], name: damaged}}, path)
        assert "exp_avg" in refused(run)
    torch.save({"state": {}, "param_groups": []}, path)
    refused(run)


@pytest.mark.parametrize("part", ["lora_B", "lm_head"])
def test_an_adapter_without_some_of_its_weights_is_refused(resume, part):
    run, folder = resume("lora")
    path = folder / "adapter_model.safetensors"
    kept = {name: weight for name, weight in load_file(path).items() if part not in name}
    save_file(kept, path, {"format": "pt"})
    assert "weights of some layers are missing" in refused(run)


@pytest.mark.parametrize("line", [b'{"step": "two"}', b"[]", b"\xff\xfe", b"{"])
def test_a_damaged_line_of_the_metrics_ends_them_and_not_the_run(resume, line):
    run, _ = resume("whole")
    path = Path(run.training.output_dir) / metrics_log.FILE
    path.write_bytes(path.read_bytes().splitlines()[0] + b"\n" + line + b"\n")
    assert train(run).steps == 3
    assert [entry["step"] for entry in metrics_log.read(path.parent)] == [1, 3]
