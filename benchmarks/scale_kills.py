"""Kills in the middle of bulk embedding: the driver, a worker, or a node of a cluster.

`python -m benchmarks.scale_kills --kill driver worker node --kills 20` starts a cluster of three
nodes on this machine (one of them for the driver), kills by SIGKILL while parts are committed, and
compares the result: every id once, vectors as of one process, committed parts unchanged.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
from tests import tiny

ROWS = 3000
PART_BYTES = 600
BETWEEN = 3  # new parts between two kills
WAIT = 180  # seconds for new parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--kill", nargs="+", default=["driver", "worker", "node"], choices=list(KILLS)
    )
    parser.add_argument("--kills", type=int, default=20)
    wanted = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kills"))
    try:
        trial = Trial(folder)
        for kind in wanted.kill:
            started = time.monotonic()
            jobs = trial.run(kind, wanted.kills)
            seconds = time.monotonic() - started
            print(
                f"{kind}: {wanted.kills} kills in {jobs} jobs, {seconds:.0f} s; all rows",
                flush=True,
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Trial:
    """A cluster, a model and a file of rows, on which jobs run and are killed."""

    def __init__(self, folder: Path) -> None:
        import ray
        from ray.cluster_utils import Cluster

        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        self.folder = folder
        self.model = tiny.folder(folder / "model")
        self.source = folder / "rows.jsonl"
        rows = [
            {"id": f"d{n:05d}", "text": f"Passage {n}: {tiny.SENTENCES[n % 5]}"}
            for n in range(ROWS)
        ]
        self.source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        self.expected = self._alone([row["text"] for row in rows])
        self.ids = [row["id"] for row in rows]
        head = {"num_cpus": 0, "object_store_memory": 200_000_000, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.nodes = [self._node(), self._node()]
        ray.init(address=self.cluster.address, log_to_driver=False, logging_level="ERROR")

    def _alone(self, texts: list[str]) -> np.ndarray:
        from gritlm import GritLM, gritlm_instruction

        model = GritLM(self.model, dtype="float32", device="cpu", mode="embedding")
        return model.encode(texts, instruction=gritlm_instruction(""), show_progress_bar=False)

    def _node(self) -> Any:
        return self.cluster.add_node(num_cpus=2, object_store_memory=200_000_000)

    def run(self, kind: str, kills: int) -> int:
        """Run jobs until this number of kills happened, and return the number of jobs."""
        done = jobs = 0
        while done < kills:
            output = self.folder / f"{kind}{jobs}"
            done += self._job(output, KILLS[kind], kills - done)
            self._compare(output)
            jobs += 1
        return jobs

    def _job(
        self, output: Path, kill: Callable[[Trial, subprocess.Popen[bytes]], None], most: int
    ) -> int:
        driver = self.start(output)
        staging = output.with_name(f"{output.name}.staging")
        kills = 0
        seen: dict[str, int] = {}
        while kills < most:
            if not self._wait_for_parts(staging, len(seen) + BETWEEN, driver):
                break
            seen = committed(staging)
            kill(self, driver)
            kills += 1
            if driver.poll() is not None:
                now = committed(staging)
                driver = self.start(output)
                seen = now
            print(f"  kill {kills}: {len(seen)} parts committed", flush=True)
        if driver.wait(timeout=600) != 0:
            raise SystemExit(f"the driver ended with {driver.returncode}")
        final = committed(output)
        if any(final[name] != changed for name, changed in seen.items()):
            raise SystemExit("a committed part was written again")
        return kills

    def start(self, output: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "gritlm", "embed", "--ray", "--quiet"]
        command += ["--address", self.cluster.address, "--workers", "1:2", "--device", "cpu"]
        command += ["--input", str(self.source), "--output", str(output), "--dtype", "float32"]
        command += ["--model", str(self.model), "--part-bytes", str(PART_BYTES)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def _wait_for_parts(self, staging: Path, count: int, driver: subprocess.Popen[bytes]) -> bool:
        until = time.monotonic() + WAIT
        while time.monotonic() < until:
            if driver.poll() == 0:
                return False
            if driver.poll() is not None:
                raise SystemExit(f"the driver ended with {driver.returncode}")
            if len(committed(staging)) >= count:
                return True
            time.sleep(0.01)
        raise SystemExit(f"no new part in {WAIT} seconds")

    def _compare(self, output: Path) -> None:
        table = pq.read_table(output).sort_by("id")
        if table["id"].to_pylist() != self.ids:
            raise SystemExit(f"{output}: {table.num_rows} rows of {ROWS}, or other ids")
        found = np.array(table["embedding"].to_pylist(), dtype=np.float32)
        off = float(np.abs(found - self.expected).max())
        if off > 1e-5:
            raise SystemExit(f"{output}: vectors differ by {off}")


def committed(folder: Path) -> dict[str, int]:
    """Return names and times of the parts in a folder."""
    found = {}
    for path in folder.glob("part-*.parquet"):
        try:
            found[path.name] = path.stat().st_mtime_ns
        except FileNotFoundError:  # the folder was renamed meanwhile
            return {}
    return found


def kill_driver(trial: Trial, driver: subprocess.Popen[bytes]) -> None:
    del trial
    driver.kill()
    driver.wait()


def kill_worker(trial: Trial, driver: subprocess.Popen[bytes]) -> None:
    del trial, driver
    for process in psutil.process_iter(["cmdline"]):
        is_worker = "VectorWorker" in " ".join(process.info["cmdline"] or [])
        if is_worker and psutil.Process() in process.parents():
            process.kill()
            return


def kill_node(trial: Trial, driver: subprocess.Popen[bytes]) -> None:
    del driver
    trial.cluster.remove_node(trial.nodes.pop(0), allow_graceful=False)
    trial.nodes.append(trial._node())


KILLS = {"driver": kill_driver, "worker": kill_worker, "node": kill_node}


if __name__ == "__main__":
    main()
