"""The command line, in this process and in one of its own, on a tiny random model."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gritlm import GritLM
from gritlm.cli.app import create_app

_LISTENS_TO_CTRL_C = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from gritlm.cli import main; main()"
)

Run = Callable[..., Result]
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture(scope="session")
def model_folder(tiny_model: Callable[..., Path]) -> Path:
    """A long context, so that a long answer leaves time to press ctrl-C."""
    return tiny_model(max_position_embeddings=4096)


@pytest.fixture(scope="session")
def lm(model_folder: Path) -> GritLM:
    """The same model by the library, to compare with."""
    return GritLM(model_folder, dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def model_options(model_folder: Path) -> list[str]:
    return ["--model", str(model_folder), "--dtype", "float32", "--device", "cpu"]


@pytest.fixture
def run() -> Run:
    """The command line in this process, without a model option: ``run("embed", "--help")``."""

    def call(*words: str, stdin: str | bytes = b"") -> Result:
        return CliRunner().invoke(create_app(), list(words), input=stdin, prog_name="gritlm")

    return call


@pytest.fixture
def run_model(run: Run, model_options: list[str]) -> Run:
    """As ``run``, on the tiny model."""

    def call(*words: str, stdin: str | bytes = b"") -> Result:
        command, *rest = words
        return run(command, *model_options, *rest, stdin=stdin)

    return call


@pytest.fixture
def start() -> Iterator[Start]:
    """The command line in a process of its own, its three streams as pipes."""
    running: list[subprocess.Popen[bytes]] = []

    def call(words: Sequence[str], **options: object) -> subprocess.Popen[bytes]:
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
        # A shell that runs the tests in the background lets its children ignore ctrl-C.
        process = subprocess.Popen(
            [sys.executable, "-c", _LISTENS_TO_CTRL_C, *words],
            env=environment,
            **{**pipes, **options},
        )
        running.append(process)
        return process

    yield call
    for process in running:
        process.kill()
        process.communicate()


@pytest.fixture
def error_of(run: Run) -> Callable[..., str]:
    """Run a command that must be refused; what its one line on stderr says."""

    def call(*words: str, stdin: str | bytes = b"") -> str:
        result = run(*words, stdin=stdin)
        assert result.exit_code == 2
        assert result.stdout == ""
        assert result.stderr.count("gritlm: error: ") == 1
        last = result.stderr.splitlines()[-1]
        assert last.startswith("gritlm: error: ")
        return last.removeprefix("gritlm: error: ")

    return call
