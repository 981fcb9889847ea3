"""A tiny model and some real passages."""

from __future__ import annotations

from pathlib import Path

import pytest

from gritlm import GritLM
from gritlm.rag.types import Hit, Passage
from tests import tiny

TEXTS = (
    "Water boils at 100 degrees and freezes at 0 degrees.",
    "Cats sleep most of the day. Dogs like long walks in the park.",
    "The quick brown fox jumps over the lazy dog.",
    "Ann has a red ball, Bob has a blue car.",
    "A model that reads, searches and writes with one set of weights.",
)
QUESTION = "What colour is the ball?"


def hit(text: str, rank: int = 1, cosine: float = 0.5) -> Hit:
    return Hit(Passage(f"p{rank}", f"d{rank}", "", text, 0, 0, len(text)), cosine, rank)


@pytest.fixture(scope="session")
def rag_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.folder(tmp_path_factory.mktemp("rag-llama"), max_position_embeddings=1024)


@pytest.fixture(scope="session")
def grit(rag_folder: Path) -> GritLM:
    """A tiny Llama in float32. Tests do not change it."""
    return GritLM(rag_folder, dtype="float32", device="cpu")


@pytest.fixture
def hits() -> list[Hit]:
    """Five passages, the best first."""
    return [hit(text, rank) for rank, text in enumerate(TEXTS, start=1)]
