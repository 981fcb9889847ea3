"""Fixtures of models that read images or sound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers as hf
from PIL import Image

from gritlm import GritLM
from tests.lm.media.checkpoints import FAMILIES, SOUNDS


@dataclass(frozen=True)
class Case:
    """A tiny model of a family.

    Attributes:
        name: the family.
        folder: its checkpoint.
        grit: the model in float32.
    """

    name: str
    folder: Path
    grit: GritLM

    @cached_property
    def whole(self) -> Any:
        """The model as transformers loads it."""
        return hf.AutoModelForMultimodalLM.from_pretrained(self.folder).eval()

    @property
    def hears(self) -> bool:
        return self.name in SOUNDS

    def media(self, seed: int = 0) -> dict[str, Any]:
        """An image or a sound, in the form of sentence-transformers."""
        return {"audio": sound(seed)} if self.hears else {"image": image(seed)}


def image(seed: int = 0, size: tuple[int, int] = (40, 60)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def sound(seed: int = 0, seconds: float = 0.7) -> dict[str, Any]:
    samples = np.random.default_rng(seed).normal(size=int(16000 * seconds)) / 4
    return {"array": samples.astype(np.float32), "sampling_rate": 16000}


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Case]:
    """Return the model of a family, made at its first use."""
    made: dict[str, Case] = {}

    def case(name: str) -> Case:
        if name not in made:
            folder = FAMILIES[name](tmp_path_factory.mktemp(name))
            made[name] = Case(name, folder, GritLM(folder, dtype="float32", device="cpu"))
        return made[name]

    return case


@pytest.fixture(scope="session")
def seeing(cases: Callable[[str], Case]) -> GritLM:
    """A tiny model that reads images. Tests do not change it."""
    return cases("idefics3").grit


@pytest.fixture(scope="session")
def hearing(cases: Callable[[str], Case]) -> GritLM:
    """A tiny model that reads sound. Tests do not change it."""
    return cases("qwen2_audio").grit
