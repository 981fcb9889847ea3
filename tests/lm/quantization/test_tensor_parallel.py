"""A model that two processes share computes what one process does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gritlm import GritLM, gritlm_instruction
from tests.lm.quantization import tensor_parallel_worker as worker

pytestmark = pytest.mark.distributed

BOUND = 1e-5


@pytest.fixture(scope="module")
def folder(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model()


@pytest.fixture(scope="module")
def shared(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Results of both processes; the first has the vectors of the command line too."""
    out = tmp_path_factory.mktemp("shared")
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    words += ["--nproc-per-node", "2", "-m", worker.__name__, str(folder), str(out)]
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads((out / f"{rank}.json").read_text()) for rank in range(2)]
    found[0]["cli"] = np.load(out / "cli.npy")
    return found


def test_embeddings_and_answers_equal_those_of_one_process(shared, folder):
    expected = worker.results(GritLM(folder, dtype="float32", device="cpu"))
    for found in shared:
        for name in ("vectors", "alone"):
            assert np.abs(np.array(found[name]) - np.array(expected[name])).max() < BOUND
        for name in ("answer", "behind", "sampled"):
            assert found[name] == expected[name]


def test_the_command_writes_the_vectors_of_one_process(shared, folder):
    one = GritLM(folder, dtype="float32", device="cpu")
    expected = one.encode(worker.TEXTS, instruction=gritlm_instruction())
    assert np.abs(shared[0]["cli"] - expected).max() < BOUND


def test_each_process_has_half_of_a_layer(shared):
    assert [found["share"] for found in shared] == [0.5, 0.5]


def test_both_processes_compute_the_same_in_half_precision(shared, folder):
    assert shared[0]["half"] == shared[1]["half"]
    assert shared[0]["half answer"] == shared[1]["half answer"]
    whole = GritLM(folder, dtype="bfloat16", device="cpu").encode(worker.TEXTS)
    assert ((np.array(shared[0]["half"]) * whole).sum(axis=1) > 0.999).all()


def test_sampling_needs_a_seed(shared):
    for found in shared:
        assert "set seed" in found["refused"]
