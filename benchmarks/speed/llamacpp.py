"""llama.cpp as a peer, by the package ``xllamacpp``, with the weights of our model."""

from __future__ import annotations

import argparse
import importlib.util
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gritlm import GritLM

ABSENT = "not installed: pip install xllamacpp"
HOST = "127.0.0.1"


def is_installed() -> bool:
    """Return whether the peer can run."""
    return importlib.util.find_spec("xllamacpp") is not None


def facts() -> dict[str, str]:
    """Return version and system information of the peer; empty without it."""
    if not is_installed():
        return {}
    import xllamacpp

    return {"xllamacpp": xllamacpp.__version__, "system": xllamacpp.get_system_info().strip()}


def write_weights(model: GritLM, folder: Path, kind: str) -> Path:
    """Return a GGUF file with the weights of a model, its adapter merged.

    Args:
        model: the model, not quantised.
        folder: folder of the file.
        kind: type of the matrices, as ``bf16`` or ``q8_0``.
    """
    path = folder / f"{kind}.gguf"
    if not path.is_file():
        model.export(path, form="gguf", dtype=kind)
    return path


def server(path: Path, *, threads: int, context: int, slots: int = 1) -> Any:
    """Return a llama.cpp server on a free port of this machine.

    Args:
        path: GGUF file.
        threads: number of threads.
        context: tokens of a slot.
        slots: number of sequences at a time.
    """
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx = context * slots
    params.n_parallel = slots
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    params.hostnames = [HOST]
    params.port = 0
    params.verbosity = 0
    return xllamacpp.Server(params)


class LlamaCpp:
    """llama.cpp in this process.

    Args:
        path: GGUF file.
        threads: number of threads.
        context: tokens of a prompt and its answer together.
    """

    def __init__(self, path: Path, *, threads: int, context: int) -> None:
        self._server = server(path, threads=threads, context=context)

    def complete(self, ids: Sequence[int], tokens: int) -> str:
        """Return the greedy text after token ids; no prompt is remembered.

        Raises:
            RuntimeError: for another number of tokens than requested.
        """
        request = {
            "prompt": list(ids),
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
            "cache_prompt": False,
        }
        answer = self._server.handle_completions(request)
        if answer["usage"]["completion_tokens"] != tokens:
            raise RuntimeError(f"llama.cpp answered {answer['usage']}, {tokens} tokens expected")
        return str(answer["choices"][0]["text"])


@contextmanager
def other_process(path: Path, *, threads: int, context: int, slots: int) -> Iterator[Any]:
    """A llama.cpp server in its own process."""
    import re
    import sys

    from benchmarks.serving.server import started

    command = [sys.executable, "-m", "benchmarks.speed.llamacpp", str(path)]
    command += ["--threads", str(threads), "--context", str(context), "--slots", str(slots)]
    with started(command, re.compile(r"listening at (http://\S+)")) as running:
        yield running


def main() -> None:
    parser = argparse.ArgumentParser(description="A llama.cpp server until SIGTERM.")
    parser.add_argument("path", type=Path)
    for name in ("threads", "context", "slots"):
        parser.add_argument(f"--{name}", type=int, required=True)
    chosen = parser.parse_args()
    running = server(
        chosen.path, threads=chosen.threads, context=chosen.context, slots=chosen.slots
    )
    print(f"listening at {running.listening_address}", flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
