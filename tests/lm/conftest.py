"""Fixtures of the model room: tiny models on disk and in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from gritlm import GritLM
from tests import tiny


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.folder(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def grit(llama_folder: Path) -> GritLM:
    """A tiny Llama in float32. Tests do not change it."""
    return GritLM(llama_folder, dtype="float32", device="cpu")
