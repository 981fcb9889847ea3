"""A Ray for the tests of a session, on this machine alone."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src"
MEMORY = 200_000_000  # bytes of Ray's object store


@pytest.fixture(scope="session")
def ray_on_this_machine() -> Iterator[str]:
    """Address of a Ray with four CPUs in name, whose workers import the same gritlm."""
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Names of sockets may have some 100 characters: too few for a folder of pytest.
    folder = tempfile.mkdtemp(prefix="ray")
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(SRC), before)))
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=MEMORY,
        namespace="gritlm",
        _temp_dir=folder,
    )
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def folder(tiny_model: Callable[..., Path]) -> Path:
    """The folder of a tiny model."""
    return tiny_model()
