"""Processes of the sides: each loads its model once, and measures a round whenever it is asked to.

The threads of one library that wait in busy loops slow down those of another in the same process.
Here the sides share nothing but the machine, and those whose turn it is not are blocked in a read.
"""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.speed.measure import Row, Setting, SideError, Taken, alternate
from gritlm.lm import threads

# Imported once, by the process that all others are forked from. They start no threads.
LOADED = ["torch", "transformers.modeling_utils"]
LIMIT_S = 300.0  # of loading, and of a round
ENDS_S = 30.0

Round = Callable[[], Taken]


@dataclass(frozen=True)
class Room:
    """Arguments of the function that prepares the sides of a process.

    Attributes:
        setting: settings of the run.
        folder: folder of the run, for files that several processes read.
        closing: context managers that end with the process.
    """

    setting: Setting
    folder: Path
    closing: ExitStack


Prepare = Callable[[Room], Mapping[str, Round]]


@dataclass(frozen=True)
class Apart:
    """Sides that share a process.

    Attributes:
        sides: their names.
        prepare: function, called in the process, that returns the round of each side.
    """

    sides: Sequence[str]
    prepare: Prepare


class Worker:
    """A process with the sides that it measures. It is left with its context.

    Args:
        apart: the sides.
        setting: settings of the run.
        folder: folder of the run.

    Raises:
        SideError: if the sides cannot be prepared.
    """

    def __init__(self, apart: Apart, setting: Setting, folder: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(LOADED)
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(apart.prepare, setting, folder, theirs), daemon=False
        )
        self._process.start()
        theirs.close()
        try:
            self._answer()
        except SideError:
            self._end()
            raise

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def round(self, side: str) -> Taken:
        """Return the time of a round of a side.

        Raises:
            SideError: for a round that fails, a process that has ended, or one that is too slow.
        """
        try:
            self._pipe.send(side)
        except OSError:
            raise self._ended() from None
        taken = self._answer()
        if not isinstance(taken, Taken):
            raise SideError(f"its process answered {taken!r}, a time was expected")
        return taken

    def _answer(self) -> object:
        try:
            if not self._pipe.poll(LIMIT_S):
                self._process.kill()
                raise SideError(f"its process gave no answer within {LIMIT_S:.0f} s")
            answer = self._pipe.recv()
        except (EOFError, OSError):
            raise self._ended() from None
        if isinstance(answer, SideError):
            raise answer
        return answer

    def _ended(self) -> SideError:
        self._process.join(ENDS_S)
        code = self._process.exitcode
        if code is None or code >= 0:
            return SideError(f"its process ended with exit code {code}")
        return SideError(f"its process was ended by {signal.Signals(-code).name}")

    def _end(self) -> None:
        """Close the pipe, at which the process ends."""
        self._pipe.close()
        self._process.join(ENDS_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _serve(prepare: Prepare, setting: Setting, folder: Path, pipe: Connection) -> None:
    """Prepare the sides, then measure a round of each side that is named, until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the pipe ends with the process that measures
    threads.keep(setting.threads)
    with ExitStack() as stack:
        stack.callback(pipe.close)
        rounds = _attempt(partial(prepare, Room(setting, folder, stack)))
        pipe.send(rounds if isinstance(rounds, SideError) else None)
        while isinstance(rounds, Mapping):
            try:
                side = pipe.recv()
            except EOFError:
                return
            pipe.send(_attempt(rounds[side]))


def _attempt(run: Callable[[], object]) -> object:
    """Return the result of a function, or its error as one line."""
    try:
        return run()
    except Exception as error:
        traceback.print_exc()
        (line, *_) = str(error).splitlines() or [""]
        return SideError(f"{type(error).__name__}: {line}")


def run_apart(
    row: Row, sides: Sequence[str], run: Callable[[Room], object], setting: Setting, folder: Path
) -> bool:
    """Run a function that sides need in a process of its own, which ends then.

    Args:
        row: row of the sides, which are missing in it if the function fails.
        sides: names of the sides.
        run: function.
        setting: settings of the run.
        folder: folder of the run.

    Returns:
        Whether it succeeded.
    """
    try:
        with Worker(Apart([], partial(_once, run)), setting, folder):
            return True
    except SideError as error:
        row.fail(sides, error)
        return False


def _once(run: Callable[[Room], object], room: Room) -> Mapping[str, Round]:
    run(room)
    return {}


def compare(
    row: Row,
    places: Sequence[Apart],
    setting: Setting,
    folder: Path,
    *,
    repeats: int | None = None,
    warmups: int = 1,
) -> Row:
    """Measure the sides of a row, which take turns; one works at a time.

    A side whose process fails is missing in the row, with the reason.

    Args:
        row: the row, completed in place.
        places: the sides, in the order of their turns.
        setting: settings of the run.
        folder: folder of the run.
        repeats: number of measurements of a side; None for that of the setting.
        warmups: number of rounds before.
    """
    with ExitStack() as stack:
        sides: dict[str, Round] = {}
        for apart in places:
            try:
                worker = stack.enter_context(Worker(apart, setting, folder))
            except SideError as error:
                row.fail(apart.sides, error)
                continue
            sides |= {side: partial(worker.round, side) for side in apart.sides}
        times = setting.repeats if repeats is None else repeats
        row.taken = alternate(sides, times, warmups=warmups, fail=row.fail)
    return row
