"""Fixtures of the model room: tiny models on disk and in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gritlm import GritLM


@pytest.fixture(scope="session")
def llama_folder(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model()


@pytest.fixture(scope="session")
def grit(llama_folder: Path) -> GritLM:
    """A tiny Llama in float32. Tests do not change it."""
    return GritLM(llama_folder, dtype="float32", device="cpu")
