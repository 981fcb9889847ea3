"""Servers with tiny models that read images or sound, and what clients send to them."""

from __future__ import annotations

import io
import wave
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gritlm import GritLM
from gritlm.serve.config import ServerConfig
from gritlm.serve.engine.limits import Limits
from tests.lm.media.checkpoints import FAMILIES
from tests.lm.media.conftest import image, sound
from tests.serve.conftest import Served, served


def png(seed: int = 0, size: tuple[int, int] = (40, 60)) -> bytes:
    """An image as a file."""
    written = io.BytesIO()
    image(seed, size).save(written, "PNG")
    return written.getvalue()


def wav(seed: int = 0, seconds: float = 0.7) -> bytes:
    """A sound as a file of 16 bits."""
    samples = (np.clip(sound(seed, seconds)["array"], -1, 1) * 32767).astype("<i2")
    written = io.BytesIO()
    with wave.open(written, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(samples.tobytes())
    return written.getvalue()


def coded(content: bytes) -> str:
    return b64encode(content).decode()


def data_url(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{coded(content)}"


def image_part(content: bytes | None = None) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": data_url(content or png())}}


def sound_part(content: bytes | None = None) -> dict[str, Any]:
    data = coded(content or wav())
    return {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}


def asked(*parts: dict[str, Any], text: str = "What is this?") -> list[dict[str, Any]]:
    """A conversation with images or sounds before a question."""
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


Models = Callable[[str], GritLM]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[GritLM, GritLM]]:
    """Return the model of a family for a server, and the same model once more to compare with."""
    folders: dict[str, Path] = {}
    made: dict[str, tuple[GritLM, GritLM]] = {}

    def model(name: str) -> tuple[GritLM, GritLM]:
        if name not in made:
            folders[name] = FAMILIES[name](tmp_path_factory.mktemp(name))
            one, other = (GritLM(folders[name], dtype="float32", device="cpu") for _ in range(2))
            made[name] = one, other
        return made[name]

    return model


@pytest.fixture
def start(models) -> Iterator[Callable[..., tuple[Served, GritLM]]]:
    """Start a server of a family: ``start("smolvlm", ServerConfig(...), Limits(...))``."""
    with ExitStack() as stack:

        def started(
            name: str, settings: ServerConfig | None = None, limits: Limits | None = None
        ) -> tuple[Served, GritLM]:
            own, oracle = models(name)
            made = settings or ServerConfig(port=0)
            return stack.enter_context(served(own, made, limits)), oracle

        yield started
