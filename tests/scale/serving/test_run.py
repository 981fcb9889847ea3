"""``gritlm serve --ray``: a Ray of its own, draining at SIGTERM, errors in one line."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.scale.conftest import SRC

pytestmark = pytest.mark.slow


@pytest.fixture
def variables() -> Iterator[dict[str, str]]:
    """Variables of a process that does not find the Ray of other tests."""
    pytest.importorskip("ray", reason="Ray is not installed")
    folder = tempfile.mkdtemp(prefix="g", dir="/tmp")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    more = {"PYTHONPATH": str(SRC), "RAY_TMPDIR": folder, "OMP_NUM_THREADS": "1"}
    yield {**kept, **more}
    shutil.rmtree(folder, ignore_errors=True)


def command(model: Path, *more: str) -> list[str]:
    fixed = ["--ray", "--port", "0", "--threads", "1", "--device", "cpu", "--dtype", "float32"]
    return [sys.executable, "-m", "gritlm", "serve", str(model), *fixed, *more]


def test_serving_in_replicas_ends_well_at_sigterm(model, variables, tmp_path):
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command(model), env=variables, stdout=output, stderr=output)
    try:
        until = time.monotonic() + 90
        while (found := re.search(r" at (http://\S+)", log.read_text())) is None:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.2)
        lines: list[str] = []
        body = {"messages": [{"role": "user", "content": "Cats"}], "max_tokens": 300}

        def stream() -> None:
            asked = {**body, "stream": True, "ignore_eos": True}
            url = f"{found[1]}/v1/chat/completions"
            with httpx.stream("POST", url, json=asked, timeout=60) as response:
                lines.extend(line for line in response.iter_lines() if line)

        client = threading.Thread(target=stream)
        client.start()
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        client.join(60)
        assert lines[-1] == "data: [DONE]"
        assert process.wait(60) == 0, log.read_text()
    finally:
        process.kill()


def test_a_missing_model_is_one_line(variables, tmp_path):
    done = subprocess.run(
        command(tmp_path / "nothing"), env=variables, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "nothing: there is no such folder" in line


def test_options_of_a_cluster_need_ray(model, variables):
    fixed = [sys.executable, "-m", "gritlm", "serve", str(model), "--replicas", "2"]
    done = subprocess.run(fixed, env=variables, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "--replicas 2 needs --ray" in done.stderr
