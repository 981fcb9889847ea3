"""The sides of the table of speeds: processes that take turns, and what is left if one fails."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import psutil
import pytest
from benchmarks.speed.measure import Compared, Row, Setting, Taken
from benchmarks.speed.workers import Apart, Room, Round, compare, run_apart

SETTING = Setting(None, threads=1, quick=False)
IDLE_S = 0.4


def note(room: Room, side: str, *, seconds: float = 0.0) -> Taken:
    """Append a line: side, process, and the CPU time that the process has used."""
    used = time.process_time()
    with (room.folder / "turns").open("a", encoding="utf-8") as lines:
        lines.write(f"{side} {os.getpid()} {used}\n")
    time.sleep(seconds)
    return Taken(wall=1.0, cpu=1.0, amount=2.0)


def noted(sides: tuple[str, ...], room: Room) -> Mapping[str, Round]:
    return {side: partial(note, room, side, seconds=IDLE_S) for side in sides}


def dying(room: Room) -> Mapping[str, Round]:
    def die() -> Taken:
        if (room.folder / "turns").read_text(encoding="utf-8").count("steady") > 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return note(room, "dies")

    return {"dies": die}


def raising(room: Room) -> Mapping[str, Round]:
    raise ValueError("no weights here\nand a second line")


def made(row_sides: tuple[str, ...]) -> Row:
    return Row("decode", "tokens/s", [Compared("a: b", row_sides[0], row_sides[-1], 1.0)])


@pytest.fixture(scope="module")
def turns(tmp_path_factory: pytest.TempPathFactory) -> tuple[Row, list[list[str]]]:
    """A run of two processes, of which the first has two sides."""
    folder = tmp_path_factory.mktemp("run")
    places = [Apart(["a", "b"], partial(noted, ("a", "b"))), Apart(["c"], partial(noted, ("c",)))]
    row = compare(made(("a", "c")), places, SETTING, folder)
    lines = (folder / "turns").read_text(encoding="utf-8").splitlines()
    return row, [line.split() for line in lines]


def test_processes_take_turns_and_end(turns):
    row, lines = turns
    assert [side for side, *_ in lines] == ["a", "b", "c"] * 4
    of = {side: {pid for name, pid, _ in lines if name == side} for side in "abc"}
    assert [len(pids) for pids in of.values()] == [1, 1, 1]
    assert of["a"] == of["b"] != of["c"]
    assert not any(psutil.pid_exists(int(pid)) for _, pid, _ in lines)
    assert [len(each) for each in row.taken.values()] == [3, 3, 3]
    assert (row.failed, row.missing) == (False, {})


def test_a_process_that_waits_for_its_turn_takes_no_time(turns):
    used = [float(cpu) for side, _, cpu in turns[1] if side == "c"]
    assert used[-1] - used[0] < IDLE_S / 4  # it waited for six rounds of that length


def test_a_process_that_dies_is_a_missing_side_and_the_others_go_on(tmp_path, capfd):
    steady = Apart(["steady"], partial(noted, ("steady",)))
    row = compare(made(("steady", "dies")), [steady, Apart(["dies"], dying)], SETTING, tmp_path)
    reason = "its process was ended by SIGKILL"
    assert row.missing == {"dies": reason}
    assert row.failed
    assert [len(each) for each in row.taken.values()] == [3]
    assert "wall" not in row.as_json()["ratios"][0]
    assert f"decode, dies: {reason}" in capfd.readouterr().err.splitlines()


def test_a_side_that_cannot_be_prepared_is_missing_with_its_error_in_one_line(tmp_path):
    places = [Apart(["x", "y"], raising), Apart(["a"], partial(noted, ("a",)))]
    row = compare(made(("a", "x")), places, SETTING, tmp_path, repeats=1, warmups=0)
    assert row.missing == dict.fromkeys("xy", "ValueError: no weights here")
    assert list(row.taken) == ["a"]
    assert not run_apart(row, ["z"], raising, SETTING, tmp_path)
    assert row.missing["z"] == "ValueError: no weights here"


def test_a_file_of_all_sides_is_written_by_a_process_of_its_own(tmp_path):
    def has(room: Path) -> bool:
        return (room / "turns").is_file()

    row = made(("a", "b"))
    assert run_apart(row, ["a"], partial(note, side="prepared"), SETTING, tmp_path)
    assert has(tmp_path)
    assert not row.failed
