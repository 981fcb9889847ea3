"""A small run of benchmarks/attack/crash.py: kills and flipped bits of a whole workspace."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_some_kills_and_flipped_bits_lose_nothing_and_show_nothing_wrong():
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.attack.crash", "--kills=6", "--flips=60", "--seed=100"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SIGKILL, right" in done.stdout
    assert "wrong" not in done.stdout
