"""Small tasks with images and sound on disk."""

from __future__ import annotations

import json
import wave
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gritlm.evaluation.tasks import discovery
from gritlm.evaluation.tasks.task import Task

NAMES = ("red ball", "blue car", "green tree", "red ball")
QUESTIONS = (("Is it red?", "yes"), ("Is it blue?", "no"), ("What is it?", ["ball", "sphere"]))


def picture(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def sound(path: Path, seed: int) -> None:
    samples = np.random.default_rng(seed).normal(size=8000) * 8000
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(samples.astype("<i2").tobytes())


def write(folder: Path, rows: Sequence[Mapping[str, Any]]) -> Task:
    folder.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(row) + "\n" for row in rows)
    (folder / "test.jsonl").write_text("".join(lines), encoding="utf-8")
    (task,) = discovery.local(folder)
    return task


def named(folder: Path, names: Sequence[str] = NAMES) -> Task:
    """Pictures with names; the first and the last have the same one."""
    for number in range(len(names)):
        picture(folder / f"pictures/{number}.png", number)
    return write(folder, [{"image": f"pictures/{i}.png", "name": n} for i, n in enumerate(names)])


def spoken(folder: Path) -> Task:
    texts = ("A cat sleeps.", "It rains.", "Birds sing.")
    for number in range(len(texts)):
        sound(folder / f"speech/{number}.wav", number)
    return write(folder, [{"audio": f"speech/{i}.wav", "text": t} for i, t in enumerate(texts)])


def asked(folder: Path) -> Task:
    picture(folder / "ball.png", 0)
    rows = [{"image": "ball.png", "question": q, "answer": a} for q, a in QUESTIONS]
    return write(folder, rows)
