"""Files of the package that one request crosses; `python -m tests.trips` prints them."""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import gritlm
from tests import tiny

PACKAGE = Path(gritlm.__file__).parent
LAYERS = "lm/lean/"  # the layers of the decoder, which are those of transformers elsewhere


@contextmanager
def crossed() -> Iterator[set[str]]:
    """Collect the files whose functions run in the block, in its thread and threads it starts."""
    found: set[str] = set()

    def note(frame: FrameType, event: str, _: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(PACKAGE) and frame.f_code.co_name != "<module>":
            name = path.relative_to(PACKAGE).as_posix()
            if not name.startswith(LAYERS):
                found.add(name)

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield found
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]


def answer(folder: Path) -> set[str]:
    """Return the files that ``RagEngine.answer`` crosses, its second time."""
    from gritlm import GritLM
    from gritlm.rag import RagEngine

    model = GritLM(tiny.folder(folder / "model", max_position_embeddings=1024), dtype="float32")
    with RagEngine.open(folder / "store", model) as engine:
        engine.add([{"id": "a", "text": tiny.SENTENCES[0]}, {"id": "b", "text": tiny.SENTENCES[3]}])
        engine.answer("What do cats do?", top_k=1, max_new_tokens=4)
        with crossed() as found:
            engine.answer("What do dogs like?", top_k=1, max_new_tokens=4)
    return found


def embed_over_http(folder: Path) -> set[str]:
    """Return the files that ``POST /v1/embeddings`` crosses from the ASGI app on, its second time.

    The trace covers the client's thread, the event loop, the worker threads and the model's thread.
    """
    from starlette.testclient import TestClient

    from gritlm import GritLM
    from gritlm.serve import Limits, ServerConfig, create_app
    from gritlm.serve.server import running

    model = GritLM(tiny.folder(folder / "model"), dtype="float32")
    with (
        crossed() as found,  # before the threads of the server start
        running(model, ServerConfig(), Limits(max_num_seqs=1)) as service,
        TestClient(create_app(service), base_url="http://localhost") as client,
    ):
        client.post("/v1/embeddings", json={"input": tiny.SENTENCES[0]}).raise_for_status()
        found.clear()
        client.post("/v1/embeddings", json={"input": tiny.SENTENCES[3]}).raise_for_status()
        return set(found)


def main() -> None:
    """Print each trip with its files."""
    trips: dict[str, Callable[[Path], set[str]]] = {
        "RagEngine.answer": answer,
        "POST /v1/embeddings": embed_over_http,
    }
    for name, trip in trips.items():
        with tempfile.TemporaryDirectory() as folder:
            files = trip(Path(folder))
        print(f"{name}: {len(files)} files", *sorted(files), sep="\n  ")


if __name__ == "__main__":
    main()
