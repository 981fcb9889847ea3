"""Evaluation on Ray: the report of one process, also when workers end."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("ray", reason="Ray is not installed")

from gritlm.errors import InputError, ModelError
from gritlm.evaluation import evaluate as evaluate_here
from gritlm.evaluation import find_models, make_plan
from gritlm.evaluation.cache import ResultCache
from gritlm.evaluation.outcome import Report
from gritlm.evaluation.run import Step
from gritlm.evaluation.runner import RunnerOptions
from gritlm.scale import WorkerPool, evaluate
from gritlm.scale.cluster import ClusterError
from gritlm.scale.worker_pool import ATTEMPTS, PoolTask, TaskPool, WorkersEnded
from tests import tiny
from tests.evaluation import made
from tests.scale import collection

pytestmark = collection.WARNINGS
OPTIONS = RunnerOptions(device="cpu", dtype="float32")


class Sleeper:
    """An actor whose tasks end it, or take their time."""

    def run(self, task: str, folder: str) -> str:
        """Return the task; one named once ends the first worker, one named always every one."""
        mark = Path(folder) / task
        begun = mark.exists()
        mark.write_text("", encoding="utf-8")
        if task == "always" or (task == "once" and not begun):
            os.kill(os.getpid(), signal.SIGKILL)
        if task == "wrong":
            raise InputError("a wrong task; give another one")
        time.sleep(0.1)
        return task


def start_sleeper() -> Any:
    import ray

    return ray.remote(Sleeper).options(num_cpus=0.1).remote()


def run_all(pool: TaskPool, names: list[str], folder: Path) -> dict[str, Any]:
    tasks = [
        PoolTask(name, "", lambda worker, name=name: worker.run.remote(name, str(folder)))
        for name in names
    ]
    return dict(pool.results(tasks))


@pytest.mark.usefixtures("ray_on_this_machine")
def test_a_task_whose_worker_ends_is_repeated_and_given_up_at_last(tmp_path):
    pool: TaskPool[str] = TaskPool(start_sleeper, most=2, doing="sleeping")
    try:
        found = run_all(pool, ["a", "once", "b", "always", "c"], tmp_path)
        assert found.pop("always") == WorkersEnded(ATTEMPTS)
        assert found == {name: name for name in ("a", "once", "b", "c")}
        with pytest.raises(InputError, match="a wrong task; give another one"):
            run_all(pool, ["wrong"], tmp_path)
    finally:
        pool.close()


def figures(report: Report) -> list[tuple[Any, ...]]:
    """Return models, scores, rows and reasons of a report, without times."""
    return [
        (
            outcome.name,
            outcome.about,
            [
                (each.task, each.half, each.metric, round(each.score, 3), each.count, each.items)
                for each in outcome.results
            ],
            outcome.skipped,
        )
        for outcome in report.models
    ]


def kill_a_worker(killed: list[int], seconds: float = 60) -> None:
    """Kill the first worker that measures."""
    until = time.monotonic() + seconds
    while not killed and time.monotonic() < until:
        for process in psutil.process_iter(["cmdline"]):
            is_worker = "EvaluationWorker.measure" in " ".join(process.info["cmdline"] or [])
            if is_worker and psutil.Process() in process.parents():
                killed.append(process.pid)
                process.kill()
                return
        time.sleep(0.01)


def test_two_workers_give_the_report_of_one_process(ray_on_this_machine, tmp_path):
    """Also when a worker is killed; known results are not measured again."""
    data = made.data(tmp_path / "data")
    folders = [
        tiny.folder(tmp_path / name, seed=seed, max_position_embeddings=1024)
        for seed, name in enumerate(("ours", "theirs"))
    ]
    models, plan = find_models(list(map(str, folders))), make_plan("quick", data=data)
    cache = ResultCache(tmp_path / "cache")
    expected = evaluate_here(models, plan, cache=ResultCache(None), options=OPTIONS)
    killed: list[int] = []
    thread = threading.Thread(target=kill_a_worker, args=(killed,))
    thread.start()
    seen: list[Step] = []
    report = evaluate(
        models, plan, cache=cache, options=OPTIONS, workers=WorkerPool(2), watch=seen.append
    )
    thread.join()
    assert killed
    assert figures(report) == figures(expected)
    assert not report.stopped
    assert {step.number for step in seen if step.done} == set(range(1, 7))
    assert all(outcome.computed for outcome in report.models)
    again = evaluate(models, plan, cache=cache, options=OPTIONS)
    assert figures(again) == figures(expected)
    assert [outcome.computed for outcome in again.models] == [(), ()]


@pytest.mark.usefixtures("ray_on_this_machine")
def test_a_model_that_cannot_be_loaded_ends_the_run_in_one_line(tmp_path):
    data = made.data(tmp_path / "data")
    folder = tiny.folder(tmp_path / "ours", max_position_embeddings=1024)
    models, plan = find_models([str(folder)]), make_plan("quick", data=data)
    (folder / "config.json").unlink()
    with pytest.raises((ModelError, ClusterError), match=r"ours.*config\.json") as raised:
        evaluate(models, plan, cache=ResultCache(None), options=OPTIONS)
    assert "\n" not in str(raised.value)
