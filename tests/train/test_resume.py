"""Checkpoints to go on from: older ones, broken ones, foreign ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gritlm.train.config import Run
from gritlm.train.trainer import train
from tests.train import runs


def saved(folder: Path, **sections: Any) -> tuple[Run, Path]:
    """A finished run of three steps with a checkpoint after the second one."""
    training = {"save_steps": 2, **sections.pop("training", {})}
    run = runs.make(folder, training=training, **sections)
    train(run)
    again = runs.elsewhere(run, "out", resume_from_checkpoint=True)
    return again, folder / "out" / "checkpoint-000002"


def test_a_setting_that_is_new_since_a_checkpoint_had_its_default(tmp_path):
    again, folder = saved(tmp_path)
    path = folder / "training" / "state.json"
    state = json.loads(path.read_text(encoding="utf-8"))
    del state["settings"]["model.use_dora"]
    path.write_text(json.dumps(state), encoding="utf-8")
    assert train(again).steps == 3
