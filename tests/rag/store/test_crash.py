"""kill -9 at any moment: what was acknowledged is there, and verifies."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gritlm.rag.kvstore import recovery, segments
from gritlm.rag.kvstore.lmdb import lmdb_index
from tests.rag.store import blocks

# Python 3.12 warns of a fork beside threads; these children use none.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

RECORD = 8192
BUDGET = 40 * RECORD
MADE = {seed: blocks.block(seed) for seed in range(100)}


class Log:
    """Lines that a child writes before and after each verb; they outlive it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, **line: object) -> None:
        with self.path.open("ab", buffering=0) as file:
            file.write(json.dumps(line).encode() + b"\n")

    def read(self) -> tuple[set[int], dict[str, object] | None]:
        """Seeds that were acknowledged last, and the verb that was under way.

        A line whose writer was killed before its end was not said.
        """
        said = self.path.read_bytes()
        os.truncate(self.path, said.rfind(b"\n") + 1)
        there, begun = set(), None
        for line in map(json.loads, self.path.read_bytes().splitlines()):
            if "there" in line:
                there, begun = set(line["there"]), None
            else:
                begun = line
        return there, begun


def work(folder: Path, log: Log, seed: int, steps: int) -> None:
    """Random verbs, each announced and acknowledged."""
    torch.set_num_threads(1)
    dice = random.Random(seed)
    with blocks.opened(folder, disk_bytes=BUDGET) as store:
        names = {blocks.key_of(store, made): one for one, made in MADE.items()}
        for _ in range(steps):
            verb = dice.choice(["put"] * 5 + ["many", "delete", "evict", "gc"])
            chosen = [dice.randrange(100) for _ in range(4 if verb == "many" else 1)]
            log.write(verb=verb, seeds=chosen)
            made = [MADE[one] for one in chosen]
            keys = [blocks.key_of(store, one) for one in made]
            if verb in ("put", "many"):
                store.put_many(zip(keys, made, strict=True))
            elif verb == "delete":
                store.delete(keys)
            elif verb == "evict":
                store.evict(2 * RECORD)
            else:
                store.gc()
            log.write(there=[one for key, one in names.items() if key in store])


def check(folder: Path, log: Log) -> None:
    """Open as the next process would, and hold it against what was acknowledged."""
    acknowledged, begun = log.read()
    with blocks.opened(folder, disk_bytes=BUDGET) as store:
        assert store.damages == []
        assert store.verify() == []
        assert store.nbytes <= BUDGET
        there = {one for one, made in MADE.items() if blocks.key_of(store, made) in store}
        for one in there:
            assert blocks.same(store, blocks.key_of(store, MADE[one]), MADE[one])
        verb = begun["verb"] if begun else None
        seeds = set(begun["seeds"]) if begun else set()
        assert there - acknowledged <= (seeds if verb in ("put", "many") else set())
        lost = acknowledged - there
        if verb in (None, "gc"):
            assert not lost
        elif verb == "delete":
            assert lost <= seeds
        else:  # what eviction takes at most: what is needed, or a segment, and the last one
            assert len(lost) <= 2 * len(seeds) + 3
        log.write(there=sorted(there))


def killed(child: Callable[[], None], *, after: float | None = None) -> bool:
    """Run in a child; kill it after some seconds unless it does so itself -> whether it died so."""
    process = blocks.processes.Process(target=child)
    process.start()
    process.join(after)
    process.kill()
    process.join()
    died = process.exitcode == -signal.SIGKILL
    assert died or process.exitcode == 0
    process.close()
    return died


def test_kills_at_random_moments_lose_nothing(tmp_path):
    folder, log, dice = tmp_path / "store", Log(tmp_path / "log"), random.Random(5)
    log.path.touch()
    kills = 0
    for number in range(60):
        kills += killed(
            lambda number=number: work(folder, log, number, 10_000), after=dice.uniform(0.01, 0.08)
        )
        check(folder, log)
        if kills == 30:
            break
    assert kills >= 30


def dies_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, the process kills itself before (or half-way through) its n-th change."""
    left = [step]

    def counted(function: Callable[..., object], half: bool = False) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            left[0] -= 1
            if left[0] == 0:
                if half:
                    file, part, at = arguments
                    function(file, part[: len(part) // 2], at)
                os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(10)
            return function(*arguments)

        return call

    monkeypatch.setattr(segments.os, "pwrite", counted(os.pwrite, half=True))
    monkeypatch.setattr(segments, "_datasync", counted(segments._datasync))
    monkeypatch.setattr(segments.SegmentFiles, "roll", counted(segments.SegmentFiles.roll))
    monkeypatch.setattr(segments.SegmentFiles, "drop", counted(segments.SegmentFiles.drop))
    monkeypatch.setattr(lmdb_index.LmdbIndex, "write", counted(lmdb_index.LmdbIndex.write))
    monkeypatch.setattr(recovery, "sync", counted(recovery.sync))


def test_a_kill_at_each_single_step_loses_nothing(tmp_path, monkeypatch):
    """Some verbs, killed at the first change they make, at the second, ..."""
    folder, log = tmp_path / "store", Log(tmp_path / "log")
    log.path.touch()
    work(folder, log, 0, 60)  # full: each put has to make room

    def child(step: int) -> None:
        with monkeypatch.context() as patch:
            dies_at(step, patch)
            work(folder, log, step, 20)

    died = []
    for step in range(1, 63, 2):
        died.append(killed(lambda step=step: child(step)))
        check(folder, log)
    assert sum(died) >= 30


def test_what_was_synced_and_not_yet_in_the_index_is_taken_in(tmp_path, monkeypatch):
    folder = tmp_path / "store"
    blocks.opened(folder).close()

    def child() -> None:
        with blocks.opened(folder) as store:
            monkeypatch.setattr(
                lmdb_index.LmdbIndex, "write", lambda *_: os.kill(os.getpid(), signal.SIGKILL)
            )
            blocks.put(store, blocks.block(1))

    assert killed(child)
    with blocks.opened(folder) as store:
        assert blocks.same(store, blocks.key_of(store, blocks.block(1)), blocks.block(1))


def test_a_torn_end_is_cut_off(tmp_path):
    folder = tmp_path / "store"
    with blocks.opened(folder) as store:
        keys = blocks.put(store, blocks.block(1), blocks.block(2))
        size = store.nbytes
    (segment,) = (folder / "arenas").iterdir()
    whole = segment.read_bytes()
    for torn in (b"\0" * 5000, whole[:3000], whole[:6000], b"gritlmKV" * 100):
        segment.write_bytes(whole + torn)
        with blocks.opened(folder) as store:
            assert store.nbytes == size
            assert store.damages == []
            assert all(blocks.same(store, key, blocks.block(n)) for n, key in enumerate(keys, 1))
