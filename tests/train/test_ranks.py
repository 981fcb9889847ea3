"""Whole runs on two processes against one: DDP and FSDP2, both halves, checkpoints."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from gritlm import GritLM
from gritlm.errors import TrainingError
from gritlm.train.config import EvaluationConfig, TrainConfig
from gritlm.train.data import loader
from gritlm.train.run import metrics_log
from gritlm.train.trainer import train
from tests.train import runs
from tests.train.ranks import joined, spawn

pytestmark = pytest.mark.distributed

BOUND = 1e-5
AFTER_ADAM = 2e-4  # see test_trainer
LOSS = {"kl_weight": 0.3, "rag_kl_weight": 0.3}

WAYS: dict[str, dict[str, Any]] = {
    "ddp": {"training": {"distribution": "ddp"}},
    "fsdp": {"training": {"distribution": "fsdp"}},
    "ddp, lora and projection": {
        "training": {"distribution": "ddp"},
        "model": {"lora": True, "projection": 16},
    },
    "fsdp, lora": {"training": {"distribution": "fsdp"}, "model": {"lora": True}},
    "ddp, adapters on head and embeddings": {
        "training": {"distribution": "ddp"},
        "model": {"lora": True, "lora_target_modules": ("q_proj", "lm_head", "embed_tokens")},
    },
    "fsdp, adapters on head and embeddings": {
        "training": {"distribution": "fsdp"},
        "model": {"lora": True, "lora_target_modules": ("q_proj", "lm_head", "embed_tokens")},
    },
    "fsdp, dora, head trained whole": {
        "training": {"distribution": "fsdp"},
        "model": {
            "lora": True,
            "lora_target_modules": ("q_proj",),
            "use_dora": True,
            "lora_modules_to_save": ("lm_head",),
        },
    },
    "fsdp, dora on the head": {
        "training": {"distribution": "fsdp"},
        "model": {"lora": True, "lora_target_modules": ("q_proj", "lm_head"), "use_dora": True},
    },
    "fsdp, small rounds, recomputed": {
        "training": {"distribution": "fsdp", "token_budget": 64, "gradient_checkpointing": True}
    },
    "ddp, small rounds, accumulated": {
        "training": {
            "distribution": "ddp",
            "token_budget": 64,
            "gradient_accumulation_steps": 2,
            "per_device_train_batch_size": 2,
            "per_device_generative_bs": 1,
        }
    },
    "ddp, scored pairs among others": {"training": {"distribution": "ddp"}, "scored": True},
    "ddp, questions": {"training": {"distribution": "ddp"}, "asks": True},
    "fsdp, questions, small rounds": {
        "training": {"distribution": "fsdp", "token_budget": 64},
        "asks": True,
    },
    "fsdp, sharded": {"training": {"distribution": "fsdp", "sharded_checkpoints": True}},
}
OF_ONE = (
    "model",
    "scored",
    "asks",
)  # what a run of one process has in common with its counterpart of two


def run_of_two(folder: Path, way: str) -> TrainConfig:
    """Half the rows a process of what one process has, and a checkpoint on the way."""
    half = {"per_device_train_batch_size": 4, "per_device_generative_bs": 2, "save_steps": 2}
    said = WAYS[way]
    training = half | said["training"] | {"output_dir": str(folder / "two" / way)}
    return runs.make(folder, rag=True, loss=LOSS, **{**said, "training": training})


def all_runs(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    with joined(rank, f"{folder}/meet"):
        half = {"per_device_train_batch_size": 4, "per_device_generative_bs": 2}
        sharded = merged_run(Path(folder) / "two" / "merged", distribution="fsdp", **half)
        train(sharded, evaluate=first_value)
        for way in WAYS:
            run = run_of_two(Path(folder), way)
            train(run)
            train(
                replace(
                    run,
                    training=replace(
                        run.training,
                        resume_from_checkpoint=str(
                            Path(run.training.output_dir) / "checkpoint-000002"
                        ),
                        output_dir=f"{folder}/resumed/{way}",
                    ),
                )
            )


def merged_run(output: Path, **training: Any) -> TrainConfig:
    """A run with adapters whose folder has merged weights."""
    training = {"save_merged": True, "output_dir": str(output), **training}
    return runs.make(output.parents[1], rag=True, model={"lora": True}, training=training)


def first_value(model: GritLM) -> dict[str, float]:
    return {"first": float(model.encode("a")[0])}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two processes, each once whole and once gone on from its second step."""
    folder = tmp_path_factory.mktemp("ranks")
    runs.make(folder, rag=True, scored=True)  # the files, before both processes want them
    for way in WAYS:
        (folder / "resumed" / way).mkdir(parents=True)
    spawn(all_runs, folder)
    return folder


def one(folder: Path, way: str) -> TrainConfig:
    said = {name: value for name, value in WAYS[way].items() if name in OF_ONE}
    output = {"output_dir": str(folder / "one" / way)}
    return runs.make(folder, rag=True, loss=LOSS, **{**said, "training": output})


def test_merged_weights_and_metrics_of_a_sharded_run_equal_those_of_one_process(folder):
    expected = merged_run(folder / "one" / "merged")
    found = folder / "two" / "merged"
    measured = train(expected, evaluate=first_value).metrics["eval/first"]
    runs.assert_same_weights(expected.training.output_dir, found, AFTER_ADAM)
    (entry,) = [line for line in metrics_log.read(found) if "eval/first" in line]
    assert abs(entry["eval/first"] - measured) <= AFTER_ADAM
    merged = GritLM(found, dtype="float32", device="cpu")
    assert abs(first_value(merged)["first"] - entry["eval/first"]) <= BOUND


@pytest.mark.parametrize("way", WAYS)
def test_two_processes_equal_one(folder, way):
    expected = one(folder, way)
    train(expected)
    found = run_of_two(folder, way)
    runs.assert_same_course(expected, found, BOUND)
    runs.assert_same_weights(expected.training.output_dir, found.training.output_dir, AFTER_ADAM)
    assert GritLM(found.training.output_dir, dtype="float32", device="cpu").encode("a").any()


@pytest.mark.parametrize("way", WAYS)
def test_going_on_with_two_processes_equals_not_having_stopped(folder, way):
    resumed, whole = folder / "resumed" / way, folder / "two" / way
    runs.assert_same_weights(resumed, whole, 1e-6)


def test_each_process_takes_its_part_of_the_same_rows():
    rows = list(range(12))
    parts = [loader.BatchShare(rank, 3).of(rows) for rank in range(3)]
    assert [row for part in parts for row in part] == rows


def left(rank: int, folder: str) -> None:
    """Rank 1 dies in the middle; what rank 0 is told."""
    torch.set_num_threads(1)
    run = runs.make(Path(folder), training={"output_dir": f"{folder}/dead", "max_steps": 200})
    with joined(rank, f"{folder}/meet", timeout_s=10):
        if rank == 1:
            measured = replace(run, evaluation=EvaluationConfig(eval_steps=1))
            run = measured
            original = loader.Loader.next
            loader.Loader.next = partial(_die_at_step_two, original)  # type: ignore[method-assign]
        try:
            train(run)
        except TrainingError as error:
            (Path(folder) / "told").write_text(str(error), encoding="utf-8")


def _die_at_step_two(original: Any, self: Any, step: int) -> Any:
    if step == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(self, step)


def test_a_dead_process_stops_the_others_with_a_message(tmp_path):
    runs.make(tmp_path)
    with pytest.raises(Exception, match=r"SIGKILL|terminated"):
        spawn(left, tmp_path)
    assert "another process is gone" in (tmp_path / "told").read_text(encoding="utf-8")


def test_torchrun_trains_by_the_command_line(tmp_path):
    """As users start it: two processes that torchrun starts, one of which talks."""
    runs.make(tmp_path)
    recipe = tmp_path / "run.toml"
    recipe.write_text(
        f"""
        [model]
        base = "{tmp_path}/llama"
        [data]
        query_max_len = 40
        passage_max_len = 48
        generative_max_len = 96
        [[data.embedding]]
        path = "{tmp_path}/pairs.jsonl"
        [[data.generative]]
        path = "{tmp_path}/chats.jsonl"
        [training]
        output_dir = "{tmp_path}/out"
        max_steps = 2
        per_device_train_batch_size = 4
        per_device_generative_bs = 2
        bf16 = false
        """,
        encoding="utf-8",
    )
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
            "-m",
            "gritlm",
            "train",
            str(recipe),
            "--set",
            "training.distribution=fsdp",
        ],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == [f"{tmp_path}/out"]
    assert GritLM(tmp_path / "out", dtype="float32", device="cpu").encode("a").any()
