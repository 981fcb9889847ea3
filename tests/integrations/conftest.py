"""A tiny model, an engine over a few passages, and a server over the same passages."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from gritlm import GritLM
from gritlm.integrations import RagClient
from gritlm.rag import RagEngine
from gritlm.serve.config import ServerConfig
from gritlm.serve.stores import StoreAt
from tests import tiny
from tests.rag.conftest import TEXTS
from tests.serve.conftest import served

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"

ROWS = [
    {"id": f"d{n}", "title": f"Text {n}", "text": text, "metadata": {"even": n % 2 == 0}}
    for n, text in enumerate(TEXTS)
]


@pytest.fixture(scope="session")
def grit(tmp_path_factory: pytest.TempPathFactory) -> GritLM:
    """A tiny Llama in float32. Tests do not change it."""
    folder = tiny.folder(tmp_path_factory.mktemp("llama"), max_position_embeddings=1024)
    return GritLM(folder, dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def engine(grit: GritLM, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RagEngine]:
    """An engine with five documents of one passage each."""
    with RagEngine.open(tmp_path_factory.mktemp("engine") / "store", grit) as opened:
        opened.add(ROWS)
        yield opened


@pytest.fixture(scope="session")
def client(grit: GritLM, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RagClient]:
    """A client of a server with a key and the same documents."""
    folder: Path = tmp_path_factory.mktemp("served") / "store"
    with RagEngine.open(folder, grit) as opened:
        opened.add(ROWS)
    settings = ServerConfig(port=0, api_keys=("secret",))
    with served(grit, settings, None, StoreAt(folder)) as found:
        yield RagClient(found.url, api_key="secret")
