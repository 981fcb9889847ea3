"""The benchmark of a GPU is rehearsed on the CPU; a part that fails is a row of its report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks.gpu_parts.machine import Machine

from benchmarks import gpu

PART = "tests.benchmarks.broken_part"


def test_every_part_is_rehearsed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    code = gpu.main(["--rehearse", "--out", str(tmp_path / "gpu"), "--minutes", "8"])
    report = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    rows = report["rows"]
    failed = [f"{row['name']}: {row['note']}" for row in rows if row["kind"] == "failed"]
    assert (code, failed) == (0, [])
    assert report["rehearsal"] is True
    for part in gpu.PARTS:
        held = [row for row in rows if row["part"] == part and row["kind"] == "check"]
        assert held, part
    measured = {row["part"] for row in rows if row["kind"] == "figure"}
    assert measured == set(gpu.PARTS) - {"correctness", "training"}
    assert all(row["value"] > 0 for row in rows if row["kind"] == "figure")
    skipped = {row["name"]: row["note"] for row in rows if row["kind"] == "skipped"}
    assert "need a GPU" in skipped["Liger kernels"]
    text = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert text.startswith("Rehearsal on a CPU")
    assert text.strip() in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("raises", "illegal memory access"),
        ("dies", "exit code 3"),
        ("hangs", "give more --minutes"),
    ],
)
def test_a_part_that_ends_early_is_a_row_and_keeps_its_rows(tmp_path: Path, name, note):
    gpu.run_part("starts the server of processes", PART, Machine(tmp_path, True, 60))
    first, last = gpu.run_part(name, PART, Machine(tmp_path, True, 5))
    assert (first.kind, first.name) == ("figure", "before the end")
    assert (last.kind, last.name) == ("failed", "the whole part")
    assert note in last.note


def test_checks_of_a_part_fail_and_are_skipped_one_by_one(tmp_path: Path):
    rows = gpu.run_part("goes on", PART, Machine(tmp_path, True, 60))
    kinds = [(row.kind, row.name) for row in rows]
    assert kinds == [
        ("figure", "before the end"),
        ("failed", "does not hold"),
        ("skipped", "is not here"),
        ("check", "holds"),
    ]
    assert "ZeroDivisionError" in rows[1].note
    head = {
        "rehearsal": False,
        "machine": "a machine",
        "started": "now",
        "seconds": 1,
        "command": "c",
    }
    text = gpu.markdown(head, rows)
    assert "| goes on | is not here | skipped | flash-attn is not installed |" in text
    assert "ZeroDivisionError: division by zero\n```" in text
