"""Tiny models that read images or sound, and small tasks for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from gritlm import GritLM
from tests.lm.media.checkpoints import FAMILIES


@pytest.fixture(scope="session")
def seeing_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return FAMILIES["smolvlm"](tmp_path_factory.mktemp("seeing"))


@pytest.fixture(scope="session")
def seeing(seeing_folder: Path) -> GritLM:
    """A tiny model that reads images. Tests do not change it."""
    return GritLM(seeing_folder, dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def hearing(tmp_path_factory: pytest.TempPathFactory) -> GritLM:
    """A tiny model that reads sound. Tests do not change it."""
    folder = FAMILIES["qwen2_audio"](tmp_path_factory.mktemp("hearing"))
    return GritLM(folder, dtype="float32", device="cpu")
