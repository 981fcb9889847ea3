"""Kills in the middle of bulk embedding and indexing: the driver, a worker, or a node of a cluster.

`python -m benchmarks.scale_kills --work embed index --kill driver worker node --kills 20` starts a
cluster of three nodes on this machine (one of them for the driver), kills by SIGKILL while results
are acknowledged, and compares the result with one process: every id once, vectors within 1e-5,
parts that were committed unchanged, KV blocks within 1e-4.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from benchmarks.kill_work import WORK, Prepared, Work, python

WAIT = 180  # seconds for new results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", nargs="+", default=list(WORK), choices=list(WORK))
    parser.add_argument("--kill", nargs="+", default=list(KILLS), choices=list(KILLS))
    parser.add_argument("--kills", type=int, default=20)
    wanted = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kills"))
    try:
        trial = Trial(folder)
        made = Prepared(folder)
        for name in wanted.work:
            work = WORK[name](made)
            for kind in wanted.kill:
                started = time.monotonic()
                jobs = trial.run(work, kind, wanted.kills)
                seconds = time.monotonic() - started
                print(
                    f"{name}, {kind}: {wanted.kills} kills in {jobs} jobs, {seconds:.0f} s; "
                    "all results are right",
                    flush=True,
                )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Trial:
    """A cluster on which jobs run and are killed."""

    def __init__(self, folder: Path) -> None:
        import ray
        from ray.cluster_utils import Cluster

        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        self.folder = folder
        head = {"num_cpus": 0, "object_store_memory": 200_000_000, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.nodes = [self._node(), self._node()]
        ray.init(address=self.cluster.address, log_to_driver=False, logging_level="ERROR")

    def _node(self) -> Any:
        return self.cluster.add_node(num_cpus=2, object_store_memory=200_000_000)

    def run(self, work: Work, kind: str, kills: int) -> int:
        """Run jobs until this number of kills happened, and return the number of jobs."""
        done = jobs = 0
        while done < kills:
            output = self.folder / f"{work.name}-{kind}-{jobs}"
            done += self._job(work, output, KILLS[kind], kills - done)
            jobs += 1
        return jobs

    def _job(
        self,
        work: Work,
        output: Path,
        kill: Callable[[Trial, Work, subprocess.Popen[bytes]], None],
        most: int,
    ) -> int:
        command = python(work.command(output, self.cluster.address))
        driver = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        kills = 0
        seen: dict[str, Any] = {}
        while kills < most:
            if not self._wait_for_results(work, output, len(seen) + work.between, driver):
                break
            seen = work.acknowledged(output)
            kill(self, work, driver)
            kills += 1
            if driver.poll() is not None:
                seen = work.acknowledged(output)
                driver = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            print(f"  kill {kills}: {len(seen)} results acknowledged", flush=True)
        if driver.wait(timeout=600) != 0:
            raise SystemExit(f"the driver ended with {driver.returncode}")
        work.compare(output, seen)
        return kills

    def _wait_for_results(
        self, work: Work, output: Path, count: int, driver: subprocess.Popen[bytes]
    ) -> bool:
        until = time.monotonic() + WAIT
        while time.monotonic() < until:
            if driver.poll() == 0:
                return False
            if driver.poll() is not None:
                raise SystemExit(f"the driver ended with {driver.returncode}")
            if len(work.acknowledged(output)) >= count:
                return True
            time.sleep(0.02)
        raise SystemExit(f"no new result in {WAIT} seconds")

    def replace_node(self) -> None:
        """Kill the oldest node with workers, and start another one."""
        self.cluster.remove_node(self.nodes.pop(0), allow_graceful=False)
        self.nodes.append(self._node())


def kill_driver(trial: Trial, work: Work, driver: subprocess.Popen[bytes]) -> None:
    del trial, work
    driver.kill()
    driver.wait()


def kill_worker(trial: Trial, work: Work, driver: subprocess.Popen[bytes]) -> None:
    del trial, driver
    for process in psutil.process_iter(["cmdline"]):
        is_worker = work.worker in " ".join(process.info["cmdline"] or [])
        if is_worker and psutil.Process() in process.parents():
            process.kill()
            return


def kill_node(trial: Trial, work: Work, driver: subprocess.Popen[bytes]) -> None:
    del work, driver
    trial.replace_node()


KILLS = {"driver": kill_driver, "worker": kill_worker, "node": kill_node}


if __name__ == "__main__":
    main()
