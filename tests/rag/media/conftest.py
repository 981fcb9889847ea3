"""Tiny models that see or hear, and engines over their documents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gritlm import GritLM
from gritlm.lm.media.senses import DecodedSound
from gritlm.lm.media.wav import wav_of
from gritlm.rag.engine import RagEngine
from gritlm.rag.ingest.ingest import ChunkingOptions
from tests.lm.media.checkpoints import FAMILIES

QUESTION = "What is to be seen?"


@pytest.fixture(scope="session")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], GritLM]:
    """Return the tiny model of a family in float32, made at its first use."""
    made: dict[str, GritLM] = {}

    def model(name: str) -> GritLM:
        if name not in made:
            folder = FAMILIES[name](tmp_path_factory.mktemp(name))
            made[name] = GritLM(folder, dtype="float32", device="cpu")
        return made[name]

    return model


@pytest.fixture(scope="session")
def seeing(model_of) -> GritLM:
    return model_of("smolvlm")


@pytest.fixture(scope="session")
def hearing(model_of) -> GritLM:
    return model_of("qwen2_audio")


def picture(path: Path, seed: int = 0) -> Path:
    """Write a PNG image."""
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def recording(path: Path, seconds: float = 2.0, *, seed: int = 0, rate: int = 16_000) -> Path:
    """Write a WAV file with noise."""
    samples = np.random.default_rng(seed).normal(size=round(rate * seconds)) / 8
    path.write_bytes(wav_of(DecodedSound(samples.astype(np.float32), rate)))
    return path


def opened(folder: Path, model: GritLM, **options: object) -> RagEngine:
    """An engine with windows of sound that the tiny models hear."""
    cutting = ChunkingOptions(max_tokens=64, seconds=0.8)
    return RagEngine.open(folder, model, **({"cutting": cutting} | options))
