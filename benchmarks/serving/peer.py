"""Another server over the same weights: ``transformers serve`` with continuous batching."""

from __future__ import annotations

import os
import re
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.serving.server import Client, started

from gritlm import GritLM

# As much room for keys and values as ours has; left alone, it takes most of the machine's memory.
BLOCK = 256
BLOCKS = 128
LISTENS = re.compile(r"running on (http://\S+)")


@contextmanager
def running(model: GritLM, threads: int | None) -> Iterator[Client]:
    """A client of a server that has the model's weights, its adapter merged into them."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        dtype = str(model.dtype).removeprefix("torch.")
        command = [
            str(Path(sys.executable).with_name("transformers")),
            "serve",
            folder,
            "--continuous-batching",
            "--cb-block-size",
            str(BLOCK),
            "--cb-num-blocks",
            str(BLOCKS),
            "--cb-max-batch-tokens",
            "512",
            "--device",
            model.device.type,
            "--dtype",
            dtype,
            "--host",
            "127.0.0.1",
            "--port",
            str(_free_port()),
        ]
        number = os.environ.get("OMP_NUM_THREADS") if threads is None else str(threads)
        extra = {} if number is None else {"OMP_NUM_THREADS": number}
        with started(command, LISTENS, extra) as server:
            yield Client(server.url, model=folder)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])
