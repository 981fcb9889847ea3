"""The number of threads of a forward pass: free cores, what the user has set, limits of a group."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from gritlm import GritLM
from gritlm.lm import threads
from gritlm.lm.threads import CpuTimes, ThreadNumber, free_cores

CORES = 4


class Machine:
    """Processor times of a machine with four cores, as the number of threads reads them.

    Attributes:
        others: cores that other processes use.
        own: cores that this process uses.
    """

    def __init__(self) -> None:
        self.others = 0.0
        self.own = 1.0
        self._now = CpuTimes(0.0, 0.0, 0.0, 0.0)

    def read(self) -> CpuTimes:
        before = self._now
        self._now = CpuTimes(
            before.wall + 1,
            before.idle + max(0.0, CORES - self.own - self.others),
            before.total + CORES,
            before.own + min(self.own, CORES - self.others),
        )
        return self._now


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """A machine with four cores, of which torch uses all by default."""
    monkeypatch.setattr(threads, "INTERVAL", 0.0)
    monkeypatch.setattr(threads, "FIRST", 0.0)
    monkeypatch.setattr(threads, "_defaults", lambda: {CORES})
    before = torch.get_num_threads()
    torch.set_num_threads(CORES)
    yield Machine()
    torch.set_num_threads(before)


def adjusted(number: ThreadNumber, times: int = 1) -> int:
    for _ in range(times):
        number.adjust()
    return torch.get_num_threads()


def test_all_cores_of_a_quiet_machine_are_used(machine: Machine):
    machine.others = 0.1
    assert adjusted(ThreadNumber(machine.read), 9) == CORES


@pytest.mark.parametrize(("others", "expected"), [(0.3, 3), (1.0, 3), (2.2, 2), (3.9, 1), (4.0, 1)])
def test_the_number_is_lowered_to_the_free_cores(machine: Machine, others: float, expected: int):
    machine.others = others
    assert adjusted(ThreadNumber(machine.read), 2) == expected


def test_the_number_is_raised_again_after_some_calm_readings(machine: Machine):
    number = ThreadNumber(machine.read)
    machine.others = 3.0
    assert adjusted(number, 2) == 1
    machine.others = 0.0
    assert adjusted(number, threads.CALM - 1) == 1
    assert adjusted(number) == CORES
    machine.others = 1.0
    assert adjusted(number) == 3


def test_a_busy_moment_between_calm_readings_delays_the_raise(machine: Machine):
    number = ThreadNumber(machine.read)
    for others in (0.0, 3.0, 0.0, 0.0, 3.0, 0.0, 0.0, 3.0):
        machine.others = others
        number.adjust()
    assert torch.get_num_threads() == 1


def test_a_number_set_by_the_user_is_kept(machine: Machine):
    torch.set_num_threads(3)
    machine.others = 3.0
    assert adjusted(ThreadNumber(machine.read), 9) == 3


def test_a_number_that_the_user_sets_later_is_kept(machine: Machine):
    number = ThreadNumber(machine.read)
    assert adjusted(number, 2) == CORES
    torch.set_num_threads(2)
    machine.others = 3.0
    assert adjusted(number, 9) == 2


def test_a_kept_number_is_not_adjusted(machine: Machine):
    number = ThreadNumber(machine.read)
    number.keep(2)
    machine.others = 3.0
    assert (adjusted(number, 9), number.most) == (2, 2)


@pytest.mark.parametrize("variable", threads.VARIABLES)
def test_a_number_in_the_environment_is_kept(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, variable: str
):
    monkeypatch.setattr(threads, "_shared", [])
    monkeypatch.setattr(threads, "read_cpu_times", machine.read)
    monkeypatch.setenv(variable, "4")
    machine.others = 3.0
    assert adjusted(threads.shared(), 9) == CORES


def test_each_thread_gets_the_number_when_it_computes(machine: Machine):
    number = ThreadNumber(machine.read)
    machine.others = 3.0
    found: list[int] = []

    def compute() -> None:
        found.append(adjusted(number, 2))

    for _ in range(2):
        other = threading.Thread(target=compute)
        other.start()
        other.join()
    assert [*found, adjusted(number)] == [1, 1, 1]


def test_without_usable_times_the_number_is_that_of_torch(machine: Machine):
    assert adjusted(ThreadNumber(lambda: None), 9) == CORES
    frozen = CpuTimes(1.0, 0.0, 0.0, 0.0)
    assert free_cores(frozen, CpuTimes(2.0, 0.0, 0.0, 0.5)) is None  # a sandbox without counters
    assert free_cores(frozen, frozen) is None


def test_the_limit_of_a_container_counts(machine: Machine):
    assert adjusted(ThreadNumber(machine.read, limit=1.5), 1) == 1


def test_the_first_change_is_logged_for_the_user(
    machine: Machine, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO, logger="gritlm")
    number = ThreadNumber(machine.read)
    for others in (2.0, 3.0, 0.0):
        machine.others = others
        adjusted(number, threads.CALM)
    (line,) = [each.message for each in caplog.records if "threads" in each.message]
    assert line == (
        "2 threads instead of 4: other processes leave 2.0 cores free; set OMP_NUM_THREADS or "
        "--threads for a fixed number"
    )


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/cpu.max": "200000 100000\n",
                "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
            },
            2.0,
        ),
        (
            {
                "proc/self/cgroup": "8:pids:/x\n4:cpu,cpuacct:/docker/1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            3.0,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "damaged\n"}, None),
    ],
)
def test_the_limit_of_control_groups(tmp_path: Path, files: dict[str, str], expected: float | None):
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert threads.quota(tmp_path) == expected


def test_a_busy_process_is_seen():
    before = threads.read_cpu_times()
    if before is None or threads._affinity() is None:
        pytest.skip("this system does not report processor times")
    busy = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in threads._affinity() or []
    ]
    try:
        time.sleep(0.3)  # until they run
        before = threads.read_cpu_times()
        time.sleep(0.5)
        after = threads.read_cpu_times()
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert before is not None
    assert after is not None
    free = free_cores(before, after)
    if free is None:
        pytest.skip("the processor times of this system do not follow the clock")
    assert free < 0.5


def test_loading_uses_the_free_cores(tiny_model, machine: Machine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(threads, "_shared", [ThreadNumber(machine.read)])
    machine.others = 3.0
    GritLM(str(tiny_model()), device="cpu", dtype="float32")
    assert torch.get_num_threads() == 1


def test_passes_adjust_the_number(tiny_model, machine: Machine, monkeypatch: pytest.MonkeyPatch):
    number = ThreadNumber(machine.read)
    monkeypatch.setattr(threads, "_shared", [number])
    model = GritLM(str(tiny_model()), device="cpu", dtype="float32")
    for use in (lambda: model.encode("a text"), lambda: model.chat("a text", max_new_tokens=2)):
        machine.others = 0.0
        adjusted(number, threads.CALM)
        machine.others = 3.0
        use()
        assert torch.get_num_threads() == 1
