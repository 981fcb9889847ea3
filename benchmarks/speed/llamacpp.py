"""llama.cpp as a peer, by the package ``xllamacpp``, with the weights of our model."""

from __future__ import annotations

import argparse
import importlib.util
import json
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import prompt_ids
from benchmarks.speed.measure import Row, Setting
from benchmarks.speed.workers import Apart, Room, Round, run_apart
from gritlm import GritLM

LONGEST = 2048  # tokens of a prompt
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


def apart(
    row: Row,
    side: str,
    kind: str,
    setting: Setting,
    folder: Path,
    prepare: Callable[[Path, Room], Mapping[str, Round]],
) -> list[Apart]:
    """Return llama.cpp as a side with a process of its own; empty where it cannot be measured.

    Args:
        row: row of the side; completed by the reason where it cannot be measured.
        side: name of the side.
        kind: type of the matrices, as ``bf16`` or ``q8_0``.
        setting: settings of the run.
        folder: folder of the run; the weights are written into it once, by another process.
        prepare: function from the GGUF file and the arguments of a process to its rounds.
    """
    if not is_installed():
        row.missing[side] = ABSENT
        return []
    path = folder / f"{kind}.gguf"
    write = partial(_write, path, kind)
    if not path.is_file() and not run_apart(row, [side], write, setting, folder):
        return []
    return [Apart([side], partial(prepare, path))]


def _write(path: Path, kind: str, room: Room) -> None:
    """Write the weights of our model, its adapter merged, and the ids of the prompts."""
    model = GritLM(room.setting.model, dtype="bfloat16")
    _prompt_file(path).write_text(json.dumps(prompt_ids(model.tokenizer, LONGEST)))
    model.export(path, form="gguf", dtype=kind)


def prompt(path: Path) -> list[int]:
    """Return the token ids of the prompts for a GGUF file."""
    ids: list[int] = json.loads(_prompt_file(path).read_text())
    return ids


def _prompt_file(path: Path) -> Path:
    return path.with_suffix(".json")


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
