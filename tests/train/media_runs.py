"""Small runs on tiny models that see or hear: their files, rows and settings."""

from __future__ import annotations

import json
import wave
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gritlm.train.config import SourceConfig, TrainConfig
from tests.lm.media.checkpoints import FAMILIES, SOUNDS
from tests.train import runs

FILES = 6


def files(folder: Path, *, sounds: bool) -> list[str]:
    """Write images of different sizes, or sounds of different lengths; return their names."""
    names = []
    for seed in range(FILES):
        random = np.random.default_rng(seed)
        if sounds:
            names.append(f"{seed}.wav")
            samples = random.integers(-8000, 8000, 8000 + 900 * seed, dtype=np.int16)
            with wave.open(str(folder / names[-1]), "wb") as file:
                file.setparams((1, 2, 16000, 0, "NONE", ""))
                file.writeframes(samples.tobytes())
        else:
            names.append(f"{seed}.png")
            pixels = random.integers(0, 255, (30 + 8 * seed, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / names[-1])
    return names


def pairs(names: list[str], key: str) -> list[dict[str, Any]]:
    """Rows whose query, positive or negative has a file, and rows of texts only."""
    found: list[dict[str, Any]] = []
    for number, name in enumerate(names):
        other = names[(number + 1) % len(names)]
        found += [
            {"query": {key: name, "text": f"like {number}"}, "pos": [f"the {number} cat sleeps"]},
            {"query": f"show {number}", "pos": [{key: name}], "neg": [{key: other}]},
            {"query": f"what of {number} dogs", "pos": [f"{number} dogs walk"], "neg": ["no"]},
            {
                "query": f"{number} more",
                "pos": [f"of {number}"],
                "neg": [{key: other, "text": "a"}],
            },
        ]
    return found


def chats(names: list[str], key: str) -> list[dict[str, Any]]:
    """Conversations about files, and conversations of texts."""
    found: list[dict[str, Any]] = []
    for number, name in enumerate(names):
        found += [
            {
                key: name,
                "conversations": [
                    {"from": "human", "value": f"<{key}>\nWhat is {number}?"},
                    {"from": "gpt", "value": f"the quick fox {number}" + " jumps" * number},
                ],
            },
            {"text": [f"say {number}", f"a lazy dog {number}"]},
        ]
    return found


def make(folder: Path, family: str = "smolvlm", **sections: Any) -> TrainConfig:
    """A run of a family; keyword arguments change its sections, as in :func:`runs.make`."""
    base = folder / family
    if not base.exists():
        base.mkdir()
        FAMILIES[family](base)
    key = "audio" if family in SOUNDS else "image"
    names = files(folder, sounds=family in SOUNDS)
    # Passages with media are longer than those of texts.
    data = {"passage_max_len": 128, "query_max_len": 128, "generative_max_len": 160}
    data |= {"embedding": (source(folder / "media.jsonl", pairs(names, key)),)}
    data |= {"generative": (source(folder / "chat.jsonl", chats(names, key)),)}
    sections["data"] = data | sections.get("data", {})
    sections["model"] = {"base": str(base)} | sections.get("model", {})
    return runs.make(folder, **sections)


def source(path: Path, rows: list[dict[str, Any]]) -> SourceConfig:
    return replace(runs.write(path, rows))


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
