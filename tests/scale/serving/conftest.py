"""An application of two replicas with a store, and clients of it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest

from gritlm.lm.hub.model_config import ModelSettings
from gritlm.scale.serving import ModelSource, Replicas, ServingConfig
from gritlm.serve import Limits, ServerConfig
from tests import tiny
from tests.scale.conftest import SRC

APPLICATION = "gritlm"
LENGTH = 512  # tokens that the tiny model takes
KEY = "sk-test"


@dataclass(frozen=True)
class Deployed:
    """An application that runs."""

    settings: ServingConfig
    http: httpx.Client

    def deploy(self, settings: ServingConfig) -> None:
        """Run other settings in its place."""
        from ray import serve

        from gritlm.scale.serving import build

        serve.run(build(settings), name=APPLICATION, route_prefix="/")

    def running(self) -> dict[str, float]:
        """Running requests of the engine of each replica, by its name."""
        lines = self.http.get("/metrics").raise_for_status().text.splitlines()
        found = (line for line in lines if line.startswith("gritlm_num_requests_running{"))
        return {line.split('"')[1]: float(line.split()[-1]) for line in found}

    def counts(self, metric: str, endpoint: str) -> dict[str, float]:
        """Values of a counter of one endpoint, by the names of the replicas."""
        found: dict[str, float] = {}
        for line in self.http.get("/metrics").raise_for_status().text.splitlines():
            if line.startswith(f"gritlm_{metric}_total{{") and f'endpoint="{endpoint}"' in line:
                name = line.split('"')[1]
                found[name] = found.get(name, 0) + float(line.split()[-1])
        return found

    def kill(self, replica: str) -> None:
        """Kill the process of a replica."""
        import ray

        name = f"SERVE_REPLICA::{APPLICATION}#Model#{replica}"
        ray.kill(ray.get_actor(name, namespace="serve"), no_restart=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True)
class Command:
    """``gritlm serve --ray`` in a process of its own."""

    process: subprocess.Popen[bytes]
    log: Path
    url: str

    def end(self) -> None:
        """End the command by SIGTERM, and require that it ends well."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0, self.log.read_text()


@contextmanager
def serving(model: Path, variables: dict[str, str], log: Path, *more: str) -> Iterator[Command]:
    """Start ``gritlm serve --ray`` and wait until it listens."""
    fixed = ["--ray", "--port", "0", "--threads", "1", "--device", "cpu", "--dtype", "float32"]
    command = [sys.executable, "-m", "gritlm", "serve", str(model), *fixed, *more]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=variables, stdout=output, stderr=output)
    try:
        until = time.monotonic() + 120
        while (found := re.search(r" at (http://\S+)", log.read_text())) is None:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.2)
        yield Command(process, log, found[1])
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def variables() -> Iterator[dict[str, str]]:
    """Variables of a process that does not find the Ray of other tests."""
    pytest.importorskip("ray", reason="Ray is not installed")
    folder = tempfile.mkdtemp(prefix="g", dir="/tmp")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    more = {"PYTHONPATH": str(SRC), "RAY_TMPDIR": folder, "OMP_NUM_THREADS": "1"}
    yield {**kept, **more, "RAY_USAGE_STATS_ENABLED": "0"}
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny Llama."""
    made = tiny.folder(tmp_path_factory.mktemp("model"), max_position_embeddings=LENGTH)
    ModelSettings(query_instruction="Find the passage", max_length=LENGTH).save(made)
    return made


@pytest.fixture(scope="module")
def proxy(ray_on_this_machine: str) -> Iterator[str]:
    """The address of Ray Serve's proxy."""
    from ray import serve

    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()


@pytest.fixture(scope="module")
def settings(model: Path, tmp_path_factory: pytest.TempPathFactory) -> ServingConfig:
    return ServingConfig(
        model=ModelSource(str(model), device="cpu", dtype="float32"),
        server=ServerConfig(names=("tiny",), api_keys=(KEY,), drain_s=20),
        limits=Limits(max_num_seqs=4),
        stores=(str(tmp_path_factory.mktemp("store") / "documents"),),
        shared_blocks=str(tmp_path_factory.mktemp("blocks")),
        replicas=Replicas(least=2, cpus=1),
    )


@pytest.fixture(scope="module")
def deployed(proxy: str, settings: ServingConfig) -> Iterator[Deployed]:
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=proxy, timeout=60, headers=headers) as http:
        made = Deployed(settings, http)
        made.deploy(settings)
        yield made


@pytest.fixture
def without_store(deployed: Deployed) -> Callable[[ModelSource], ServingConfig]:
    """Settings with another model, which cannot read the store of the first one."""

    def change(source: ModelSource) -> ServingConfig:
        return replace(deployed.settings, model=source, stores=())

    return change
