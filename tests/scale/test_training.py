"""Training by Ray Train: the course of torchrun, exact resumption, errors in one line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from gritlm.errors import InputError
from gritlm.scale.training import Workers, train
from gritlm.train.config import TrainConfig
from tests.train import runs

# Ray Train copies all settings of Ray Data, deprecated ones too
pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated")

BOUND = 1e-6
SIZE = 2
STEPS = 4
SCRIPT = """
from pathlib import Path
from gritlm.train.trainer import train
from tests.scale.test_training import make
train(make(Path({folder!r})), progress=False)
"""


def make(folder: Path) -> TrainConfig:
    return runs.make(folder, training={"max_steps": STEPS, "save_steps": 2, "device": "cpu"})


@pytest.fixture(scope="module")
def by_torchrun(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A run of two processes that torchrun started."""
    folder = tmp_path_factory.mktemp("torchrun")
    run = make(folder)
    script = folder / "script.py"
    script.write_text(SCRIPT.format(folder=str(folder)), encoding="utf-8")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(SIZE)]
    root = Path(__file__).parents[2]
    path = os.pathsep.join((str(root / "src"), str(root)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(
        [*launch, "--master-port", "0", "--standalone", str(script)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return run


@pytest.mark.distributed
def test_workers_go_on_exactly_where_torchrun_was(ray_on_this_machine, by_torchrun, tmp_path):
    """Two workers resume a checkpoint of torchrun and end with its losses and weights."""
    output = Path(by_torchrun.training.output_dir)
    run = runs.elsewhere(by_torchrun, "resumed", resume_from_checkpoint=True)
    resumed = Path(run.training.output_dir)
    shutil.copytree(output / "checkpoint-000002", resumed / "checkpoint-000002")
    lines = (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (resumed / "metrics.jsonl").write_text("".join(lines[:2]), encoding="utf-8")
    notes: list[str] = []
    result = train(run, Workers(SIZE), report=notes.append)
    assert (result.steps, result.stopped) == (STEPS, False)
    runs.assert_same_course(run, by_torchrun, BOUND)
    runs.assert_same_weights(resumed, output, BOUND)
    assert any("saved" in note for note in notes)
    assert not list(resumed.parent.glob(".resumed-*"))


def test_an_error_of_a_worker_is_that_of_the_run(ray_on_this_machine, by_torchrun):
    """A folder that holds a run is refused by the worker, with its own message."""
    with pytest.raises(InputError, match="overwrite_output_dir") as raised:
        train(by_torchrun, Workers(1))
    assert "\n" not in str(raised.value)


def test_more_workers_than_devices_are_refused(ray_on_this_machine, by_torchrun):
    with pytest.raises(InputError, match="900 workers need 900 CPUs, the cluster has"):
        train(by_torchrun, Workers(900))
    with pytest.raises(InputError, match="count=0"):
        replace(Workers(), count=0)
