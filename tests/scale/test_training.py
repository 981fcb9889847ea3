"""Training by Ray Train: the course of torchrun, exact resumption, errors in one line."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from gritlm.errors import InputError
from gritlm.scale.training import Workers, train
from gritlm.train.config import TrainConfig
from gritlm.train.run import metrics_log
from tests.train import runs

# Ray Train copies all settings of Ray Data, deprecated ones too
pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated")

BOUND = 1e-6
SIZE = 2
STEPS = 30
SAVED = 20  # step of a checkpoint
SCRIPT = """
from pathlib import Path
from gritlm.train.trainer import train
from tests.scale.test_training import make
train(make(Path({folder!r})), progress=False)
"""


def make(folder: Path) -> TrainConfig:
    return runs.make(folder, training={"max_steps": STEPS, "save_steps": 10, "device": "cpu"})


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
    name = f"checkpoint-{SAVED:06d}"
    shutil.copytree(output / name, resumed / name)
    lines = (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (resumed / "metrics.jsonl").write_text("".join(lines[:SAVED]), encoding="utf-8")
    notes: list[str] = []
    result = train(run, Workers(SIZE), report=notes.append)
    assert (result.steps, result.stopped) == (STEPS, False)
    runs.assert_same_course(run, by_torchrun, BOUND)
    runs.assert_same_weights(resumed, output, BOUND)
    assert any("saved" in note for note in notes)
    assert not list(resumed.parent.glob(".resumed-*"))


RECIPE = """
[model]
base = "{folder}/llama"
[data]
query_max_len = 40
passage_max_len = 48
generative_max_len = 96
[[data.embedding]]
path = "{folder}/pairs.jsonl"
[[data.generative]]
path = "{folder}/chats.jsonl"
[loss]
temperature = 0.1
question_weight = 0.0
[training]
output_dir = "{output}"
max_steps = 30
save_steps = 10
per_device_train_batch_size = 8
per_device_generative_bs = 4
learning_rate = 1e-3
warmup_steps = 0
bf16 = false
lr_scheduler_type = "linear"
device = "cpu"
"""


def interrupted(recipe: Path, output: Path, temporary: Path) -> subprocess.CompletedProcess[str]:
    """Train by the command line on a Ray of its own, and send ctrl-C as a terminal does."""
    root = Path(__file__).parents[2]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join((str(root / "src"), str(root))),
        "RAY_TMPDIR": str(temporary),
    }
    command = [sys.executable, "-m", "gritlm", "train", str(recipe), "--ray"]
    job = subprocess.Popen(
        [*command, "--workers", str(SIZE)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until = time.monotonic() + 120
    try:
        while len(metrics_log.read(output)) < 3:
            assert job.poll() is None, job.stderr and job.stderr.read()
            assert time.monotonic() < until
            time.sleep(0.05)
        os.killpg(job.pid, signal.SIGINT)
        stdout, stderr = job.communicate(timeout=60)
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(command, job.returncode, stdout, stderr)


def processes_of(temporary: Path) -> list[str]:
    """Return the processes of a Ray whose files are in a folder."""
    every = [" ".join(each.info["cmdline"] or []) for each in psutil.process_iter(["cmdline"])]
    return [each for each in every if str(temporary) in each]


@pytest.mark.distributed
def test_ctrl_c_ends_all_processes_with_a_checkpoint_to_go_on_from(
    ray_on_this_machine, by_torchrun, tmp_path
):
    """The run goes on to the losses and weights of one that was not interrupted."""
    output = tmp_path / "stopped"
    recipe = tmp_path / "run.toml"
    folder = Path(by_torchrun.training.output_dir).parent
    recipe.write_text(RECIPE.format(folder=folder, output=output), encoding="utf-8")
    temporary = Path(tempfile.mkdtemp(prefix="ray"))
    try:
        done = interrupted(recipe, output, temporary)
        assert done.returncode == 130, done.stderr
        assert "resume_from_checkpoint=true" in done.stderr
        assert "Traceback" not in done.stderr
        (saved,) = (path.name for path in output.glob("checkpoint-*"))
        step = int(saved.removeprefix("checkpoint-"))
        assert 3 <= step < STEPS
        assert f"after step {step};" in done.stderr
        assert not processes_of(temporary)
        assert not list(output.parent.glob(".stopped-*"))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    run = TrainConfig.from_toml(recipe, ["training.resume_from_checkpoint=true"])
    assert train(run, Workers(SIZE)).steps == STEPS
    runs.assert_same_course(run, by_torchrun, BOUND)
    runs.assert_same_weights(output, by_torchrun.training.output_dir, BOUND)


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
