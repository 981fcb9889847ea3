"""Folder of a run: a file for each step, and ``adapt.json`` with the state of all steps.

A step that has finished is skipped as long as the files that it reads are the same and its own
files exist. A file may be edited: the steps after it then run again. Long steps append each batch
to a file of their own, so that an interruption loses at most one batch.
"""

from __future__ import annotations

import errno
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from gritlm import atomic, jsonl
from gritlm.config import differences
from gritlm.errors import InputError
from gritlm.evaluation import fingerprints

FILE = "adapt.json"
FOLDER = "adapt"  # in the run's folder, which is also the folder of the adapter
VERSION = 1
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)

Row = dict[str, Any]


@dataclass
class MadeRows:
    """Rows that a step makes, and counts of those that it leaves out.

    Attributes:
        rows: the rows.
        counts: number of rows by what became of them: ``kept``, or the reason.
    """

    rows: list[Row] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def keep(self, row: Row) -> None:
        """Add a row and count it."""
        self.rows.append(row)
        self.counts["kept"] += 1

    def drop(self, reason: str) -> None:
        """Count a row that is left out."""
        self.counts[reason] += 1

    def add(self, other: MadeRows) -> None:
        """Add the rows and counts of another outcome."""
        self.rows += other.rows
        self.counts += other.counts


Work = Callable[[Sequence[Any]], MadeRows]  # of a batch
Spread = Callable[[Work, Sequence[Sequence[Any]]], Iterable[MadeRows]]


@dataclass(frozen=True)
class FinishedStep:
    """A step that has finished.

    Attributes:
        inputs: digest of the files that it reads.
        counts: its counts.
        seconds: duration of the attempt that finished, in seconds.
    """

    inputs: str
    counts: dict[str, int]
    seconds: float


class RunFolder:
    """Folder of a run.

    Args:
        root: the folder; its files are in the folder ``adapt`` inside of it.
        spread: applies the function of a step to its batches, in their order.
    """

    def __init__(self, root: Path, spread: Spread = map) -> None:
        self.root = root
        self._spread = spread
        self.folder = root / FOLDER
        self._inputs = ""  # digest of the step that runs
        # Next to the folder, so that it is no file of the adapter.
        self._held = FileLock(root.absolute().with_name(f".{root.absolute().name}.lock"))

    def open(self, settings: Mapping[str, Any], documents: str) -> None:
        """Begin a run, or go on with one that has the same settings and documents.

        A run without a finished step begins again, whatever its settings were. The folder is locked
        until :meth:`close`, or the end of the process.

        Args:
            settings: settings that a run must keep, as JSON values.
            documents: digest of the documents and question files.

        Raises:
            InputError: if the folder holds something else, a run with other settings or of other
                documents, or one that another process goes on with.
        """
        self._lock()
        state = self._state()
        if state is None:
            self._require_new()
        if state is None or not state["steps"]:
            new = {"version": VERSION, "settings": dict(settings), "documents": documents}
            self._write_state({**new, "steps": {}})
            return
        if differing := differences(state["settings"], settings):
            raise InputError(
                f"{self.root} holds a run with other settings: {'; '.join(differing)}; use those, "
                "or name another folder"
            )
        if state["documents"] != documents:
            raise InputError(
                f"{self.root} holds a run over other documents or questions: their files have "
                "changed since it began; name another folder"
            )

    def close(self) -> None:
        """Let other processes use the folder."""
        self._held.release()

    def steps(self) -> dict[str, FinishedStep]:
        """Return the finished steps by name, in order."""
        state = self._state()
        return {} if state is None else {n: FinishedStep(**s) for n, s in state["steps"].items()}

    def path(self, name: str) -> Path:
        """Return the path of a file of the run."""
        return self.folder / name

    def read(self, name: str) -> list[Row]:
        """Return the rows of a file."""
        return [jsonl.record(line, at) for at, line in jsonl.text_lines(self.path(name))]

    def write(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write a file of rows atomically.

        Raises:
            InputError: if the disk is full or the file cannot be written.
        """
        self.write_text(name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))

    def write_text(self, name: str, text: str) -> None:
        """Write a text file atomically.

        Raises:
            InputError: if the disk is full or the file cannot be written.
        """
        with _writing(self.path(name)), atomic.replacing(self.path(name)) as unfinished:
            unfinished.write_text(text, encoding="utf-8")

    def digest(self, names: Sequence[str]) -> str:
        """Return the digest of files; one that is missing counts as such."""
        found = [(name, self.path(name)) for name in names]
        there = fingerprints.of_files((name, path) for name, path in found if path.is_file())
        return fingerprints.of_values(there, [name for name, path in found if not path.is_file()])

    def run_step(
        self,
        name: str,
        work: Callable[[], Mapping[str, int]],
        *,
        reads: Sequence[str],
        writes: Sequence[str],
    ) -> tuple[FinishedStep, bool]:
        """Run a step, unless it has finished over the same files and its own files exist.

        Args:
            name: name of the step.
            work: function that writes the files and returns counts.
            reads: files that it reads.
            writes: files that it writes.

        Returns:
            The step, and whether it ran now.
        """
        inputs = self._inputs = self.digest(reads)
        before = self.steps().get(name)
        if before and before.inputs == inputs and all(self.path(n).is_file() for n in writes):
            return before, False
        started = perf_counter()
        counts = dict(work())
        seconds = round(perf_counter() - started, 3)
        done = FinishedStep(inputs, counts, seconds)
        state = self._state() or {}
        state["steps"][name] = vars(done)
        self._write_state(state)
        return done, True

    def in_batches(
        self,
        name: str,
        items: Sequence[Any],
        work: Work,
        *,
        size: int,
        progress: bool | None = None,
    ) -> MadeRows:
        """Apply a function to items batch by batch; go on behind the batches of an earlier attempt.

        Args:
            name: file whose rows are made; the batches are in ``NAME.part`` until it is written.
            items: items that JSON can hold; with others the work begins again.
            work: function of a batch.
            size: items of a batch.
            progress: show a progress bar; None: on a terminal.

        Returns:
            The rows and counts of all batches.
        """
        part = self.path(f"{name}.part")
        identity = fingerprints.of_values(name, size, list(items), self._inputs)
        batches = [items[start : start + size] for start in range(0, len(items), size)]
        outcome = MadeRows()
        with _writing(part):
            done = _resume(part, identity)
            for made in done:
                outcome.add(made)
            hidden = None if progress is None else not progress
            with (
                part.open("a", encoding="utf-8") as file,
                tqdm(
                    total=len(items),
                    initial=min(len(done) * size, len(items)),
                    desc=name.partition(".")[0],
                    disable=hidden,
                    leave=False,
                ) as bar,
            ):
                rest = batches[len(done) :]
                for batch, made in zip(rest, self._spread(work, rest), strict=True):
                    line = {"rows": made.rows, "counts": dict(made.counts)}
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
                    file.flush()
                    os.fsync(file.fileno())
                    outcome.add(made)
                    bar.update(len(batch))
        return outcome

    def finish_batches(self, name: str) -> None:
        """Remove the file of batches, once the file of all rows is written."""
        self.path(f"{name}.part").unlink(missing_ok=True)

    def _state(self) -> dict[str, Any] | None:
        path = self.path(FILE)
        if not path.is_file():
            return None
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            known = isinstance(state, dict) and state.get("version") == VERSION
        except ValueError:
            known = False
        if not known:
            raise InputError(f"{path} is no state of a run of this version; name another folder")
        return dict(state)

    def _write_state(self, state: Mapping[str, Any]) -> None:
        path = self.path(FILE)
        with _writing(path), atomic.replacing(path) as unfinished:
            unfinished.write_text(json.dumps(state, indent=2, ensure_ascii=False) + "\n", "utf-8")

    def _lock(self) -> None:
        path = Path(self._held.lock_file)
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._held.acquire(timeout=0)
            except Timeout:
                raise InputError(
                    f"{self.root} is used by another run of gritlm adapt; wait until it has ended, "
                    "or name another folder"
                ) from None

    def _require_new(self) -> None:
        if self.root.exists() and not self.root.is_dir():
            raise InputError(f"--to {self.root} is a file; name a folder")
        if self.root.is_dir() and any(self.root.iterdir()):
            raise InputError(
                f"--to {self.root} is not empty and holds no run of gritlm adapt; name another "
                "folder"
            )


def _resume(part: Path, identity: str) -> list[MadeRows]:
    """Return the whole batches in a file, after cutting off a broken end; begin it if needed."""
    lines = part.read_bytes().split(b"\n")[:-1] if part.is_file() else []
    rows = []
    for line in lines:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    if not rows or rows[0].get("of") != identity:
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps({"of": identity}) + "\n", encoding="utf-8")
        return []
    whole = b"".join(line + b"\n" for line in lines[: len(rows)])
    if part.stat().st_size != len(whole):
        part.write_bytes(whole)
    return [MadeRows(row["rows"], Counter(row["counts"])) for row in rows[1:]]


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn a full disk, or a folder that cannot be written, into an error of one line."""
    try:
        yield
    except OSError as error:
        remedy = "free some space" if error.errno in _NO_SPACE else "make it writable"
        raise InputError(
            f"{path} cannot be written: {error.strerror or error}; {remedy}, and give the same "
            "command again"
        ) from error
