"""LangChain's standard tests, in a process of their own with the plugins that they bring."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

STANDARD = Path(__file__).parent / "standard"


@pytest.mark.skipif(
    find_spec("langchain_tests") is None,
    reason="langchain-tests is not installed; pip install 'gritlm-unified[langchain-tests]'",
)
def test_the_standard_tests_of_langchain_pass():
    command = [sys.executable, "-m", "pytest", "-q", "-c", STANDARD / "pytest.ini", STANDARD]
    done = subprocess.run(command, capture_output=True, text=True, cwd=STANDARD.parents[2])
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
