"""Adaptation on Ray: the rows of one process, also when a worker ends."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

pytest.importorskip("ray", reason="Ray is not installed")

from gritlm.adapt.config import AdaptConfig
from gritlm.adapt.pipeline import Adaptation
from gritlm.adapt.run_folder import RunFolder
from gritlm.errors import InputError
from gritlm.scale import WorkerPool, adapt
from gritlm.scale.adaptation import _spread
from tests.adapt import made
from tests.scale import collection

pytestmark = collection.WARNINGS


def make_rows(config: AdaptConfig, *, on_ray: bool) -> dict[str, str]:
    """Make the rows of a run, and return the files of the steps that are spread."""
    workers = WorkerPool(2)
    folder = RunFolder(
        Path(config.to),
        (lambda work, batches: _spread(workers, "cpu", work, batches)) if on_ray else map,
    )
    try:
        run = Adaptation(config, folder, lambda line: None, False)
        run.begin()
        run.make_rows()
    finally:
        folder.close()
    return {
        path.name: path.read_text(encoding="utf-8")
        for path in sorted(folder.folder.glob("*.jsonl"))
    }


def kill_a_worker(killed: list[int], stop: threading.Event) -> None:
    """Kill the first worker that makes rows."""
    while not killed and not stop.wait(0.01):
        for process in psutil.process_iter(["cmdline"]):
            is_worker = "RowsWorker.make" in " ".join(process.info["cmdline"] or [])
            if is_worker and psutil.Process() in process.parents():
                killed.append(process.pid)
                process.kill()
                return


def test_workers_make_the_rows_of_one_process(ray_on_this_machine, tmp_path, tiny_model):
    """Questions, filter and negatives, also when a worker is killed."""
    made.documents(tmp_path)
    model = tiny_model(max_position_embeddings=1024)
    kinds = ("factual", "keyword", "claim")
    alone = made.config(tmp_path, model, kinds=kinds, to=str(tmp_path / "alone"))
    expected = make_rows(alone, on_ray=False)
    killed: list[int] = []
    stop = threading.Event()
    thread = threading.Thread(target=kill_a_worker, args=(killed, stop))
    thread.start()
    found = make_rows(replace(alone, to=str(tmp_path / "spread")), on_ray=True)
    stop.set()
    thread.join()
    assert killed
    assert len(expected) > 5
    assert Counter(found) == Counter(expected)


def test_an_endpoint_is_asked_by_one_process(tmp_path):
    config = made.config(tmp_path, tmp_path, questions_from="openai:http://localhost:1/v1#m")
    with pytest.raises(InputError, match=r"the endpoint http://localhost:1/v1 .*leave --ray out"):
        adapt(config)
