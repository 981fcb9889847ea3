"""Real servers on free ports, with tiny models; clients of OpenAI's kind and plain ones."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

import httpx
import openai
import pytest

from gritlm import GritLM
from gritlm.lm.hub.model_config import ModelSettings as ModelSettings
from gritlm.serve.config import ServerConfig
from gritlm.serve.engine.limits import Limits
from gritlm.serve.server import Server, bind, running
from gritlm.serve.service import Service
from gritlm.serve.stores import StoreAt
from tests import tiny

LENGTH = 512  # tokens that the tiny model takes
TEXTS = {
    "water": "Water boils at 100 degrees and freezes at 0 degrees.",
    "cats": "Cats sleep most of the day. Dogs like long walks in the park.",
    "ball": "Ann has a red ball, Bob has a blue car.",
}


@dataclass(frozen=True)
class Served:
    """A server that runs: its parts, its thread, its address, and clients for it."""

    service: Service
    server: Server
    thread: threading.Thread
    url: str
    http: httpx.Client
    openai: openai.OpenAI


@contextmanager
def served(
    model: GritLM,
    settings: ServerConfig,
    limits: Limits | None = None,
    *stores: StoreAt,
) -> Iterator[Served]:
    """A server in a thread; it has ended afterwards."""
    where: Queue[str] = Queue()
    sock = bind(settings)
    with running(model, settings, limits or Limits(max_num_seqs=4), stores) as service:
        server = Server(service, where.put)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, name="uvicorn")
        thread.start()
        try:
            url = where.get(timeout=30)
            key = settings.api_keys[0] if settings.api_keys else "none"
            headers = {"Authorization": f"Bearer {key}"}
            with (
                httpx.Client(base_url=url, timeout=30, headers=headers) as http,
                openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client,
            ):
                yield Served(service, server, thread, url, http, client)
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama that has a query instruction."""
    made = tiny.folder(tmp_path_factory.mktemp("llama"), max_position_embeddings=LENGTH)
    ModelSettings(query_instruction="Find the passage", max_length=LENGTH).save(made)
    return made


@pytest.fixture(scope="session")
def grit(folder: Path) -> GritLM:
    """In float32. Tests do not change it, and only a server uses it while one runs."""
    return GritLM(folder, dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def oracle(folder: Path) -> GritLM:
    """The same model once more, to compare with what servers answer."""
    return GritLM(folder, dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def store_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store") / "documents"


@pytest.fixture(scope="module")
def live(grit: GritLM, store_folder: Path) -> Iterator[Served]:
    """A server with a store of ``TEXTS``, without a key."""
    settings = ServerConfig(
        port=0, names=("tiny", "small"), max_body_bytes=2**20, allow_token_ids=True
    )
    with served(grit, settings, None, StoreAt(store_folder)) as found:
        documents = [{"id": name, "text": text} for name, text in TEXTS.items()]
        found.http.post("/v1/rag/documents", json={"documents": documents}).raise_for_status()
        yield found


@pytest.fixture
def serve(grit: GritLM) -> Iterator[Callable[..., Served]]:
    """Start a server with other settings: ``serve(Settings(...), Limits(...))``."""
    with ExitStack() as stack:

        def start(settings: ServerConfig | None = None, *rest: object) -> Served:
            made = ServerConfig(port=0) if settings is None else settings
            return stack.enter_context(served(grit, made, *rest))  # type: ignore[arg-type]

        yield start
