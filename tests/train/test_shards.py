"""Sharded checkpoints: no code in their files runs, and real ones are read as they are."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata

from gritlm.errors import InputError
from gritlm.train.config import TrainConfig
from gritlm.train.run import shards
from gritlm.train.trainer import train
from tests.train import runs


class Foreign:
    """A pickle of it writes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    training = {"save_steps": 2, "sharded_checkpoints": True}
    train(runs.make(folder, model={"lora": True}, training=training))
    return folder


@pytest.fixture
def again(finished: Path, tmp_path: Path) -> tuple[TrainConfig, Path]:
    """A run to go on with from its checkpoint after the second step, and the shards of that."""
    shutil.copytree(finished, tmp_path / "run")
    training = {"save_steps": 2, "sharded_checkpoints": True, "resume_from_checkpoint": True}
    base = {"lora": True, "base": str(finished / "llama")}
    run = runs.make(tmp_path / "run", model=base, training=training)
    state = tmp_path / "run" / "out" / "checkpoint-000002" / "training" / "state.json"
    text = state.read_text(encoding="utf-8").replace(str(finished) + "/", f"{tmp_path}/run/")
    found = json.loads(text)
    found["settings"]["model.base"] = base["base"]
    state.write_text(json.dumps(found), encoding="utf-8")
    return run, state.parent / "shards"


def refused(run: TrainConfig) -> str:
    with pytest.raises(InputError, match="cannot be continued from") as caught:
        train(run)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 700
    return text


def test_a_checkpoint_of_torch_is_read_as_torch_reads_it(again):
    _, folder = again
    path = folder / ".metadata"
    with path.open("rb") as file:
        ours = shards.read_metadata(file, path)
    theirs = FileSystemReader(folder).read_metadata()
    assert ours.state_dict_metadata == theirs.state_dict_metadata
    assert ours.storage_data == theirs.storage_data
    assert ours.planner_data == theirs.planner_data


def test_a_run_goes_on_from_it(again, finished):
    run, _ = again
    assert train(run).steps == 3
    runs.assert_same_weights(finished / "out", run.training.output_dir, 1e-7)


def test_code_in_the_metadata_is_not_run(again, tmp_path):
    run, folder = again
    made = tmp_path / "made"
    (folder / ".metadata").write_bytes(pickle.dumps(Foreign(made)))
    text = refused(run)
    assert f"{os.mkdir.__module__}.mkdir" in text
    assert not made.exists()


def test_code_inside_of_real_metadata_is_not_run(again, tmp_path):
    run, folder = again
    made = tmp_path / "made"
    found = FileSystemReader(folder).read_metadata()
    found.planner_data = Foreign(made)
    (folder / ".metadata").write_bytes(pickle.dumps(found))
    assert "which is not run" in refused(run)
    assert not made.exists()


def test_code_in_a_value_is_not_run(again, tmp_path):
    """Values that are no tensors, such as the learning rate, stand in the files of the shards."""
    run, folder = again
    made, found = tmp_path / "made", FileSystemReader(folder).read_metadata()
    index = next(i for i in found.storage_data if i.fqn.endswith("weight_decay"))
    entry = found.storage_data[index]
    bad = io.BytesIO()
    torch.save(Foreign(made), bad)
    path = folder / entry.relative_path
    entry.offset, entry.length = path.stat().st_size, len(bad.getvalue())
    with path.open("ab") as file:
        file.write(bad.getvalue())
    (folder / ".metadata").write_bytes(pickle.dumps(found))
    refused(run)
    assert not made.exists()


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"\x80\x05N.",
        pickle.dumps([1, 2]),
        pickle.dumps(Metadata({}, storage_data=None)),
        pickle.dumps(Metadata({}, storage_data={})),
        pickle.dumps(Metadata({}, storage_data={"a": "b"})),
    ],
    ids=["empty", "None", "a list", "no storage", "no weights", "other values"],
)
def test_metadata_that_is_damaged_is_refused_in_a_line(again, damage):
    run, folder = again
    (folder / ".metadata").write_bytes(damage)
    refused(run)


def test_a_file_outside_of_the_checkpoint_is_not_read(again):
    run, folder = again
    found = FileSystemReader(folder).read_metadata()
    next(iter(found.storage_data.values())).relative_path = "../../../secret"
    (folder / ".metadata").write_bytes(pickle.dumps(found))
    assert "'../../../secret' is no file of this checkpoint" in refused(run)


@pytest.mark.parametrize("part", ["metadata", "shard"])
def test_a_truncated_or_missing_file_is_refused_in_a_line(again, part):
    run, folder = again
    path = folder / ".metadata" if part == "metadata" else next(folder.glob("*.distcp"))
    whole = path.read_bytes()
    for size in (len(whole) // 2, 0, None):
        if size is None:
            path.unlink()
        else:
            path.write_bytes(whole[:size])
        refused(run)
