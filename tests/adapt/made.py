"""A small collection of documents, and settings of a run over it on a tiny random model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gritlm.adapt.config import AdaptConfig

ANIMALS = [
    "cat",
    "dog",
    "fox",
    "owl",
    "bee",
    "ant",
    "bat",
    "cow",
    "hen",
    "pig",
    "rat",
    "elk",
    "emu",
    "yak",
    "ape",
    "eel",
    "cod",
    "jay",
    "kit",
    "doe",
    "ram",
    "ewe",
    "sow",
    "pup",
    "cub",
    "hog",
    "gnu",
    "asp",
    "auk",
    "boa",
    "tit",
    "newt",
    "crab",
    "toad",
    "wolf",
    "lynx",
    "seal",
]
TABLE = "| animal | age |\n|---|---|\n| cat | 12 |\n| dog | 13 |"


def text(animal: str, number: int) -> str:
    """Return three sentences on an animal, which no other document has."""
    return (
        f"The {animal} sleeps {number} hours a day in {animal}ville. Every {animal} in the village "
        f"eats {number * 3} apples a week. A young {animal} walks {number * 7} miles in the summer."
    )


def documents(folder: Path, *, count: int = 36) -> Path:
    """Write a file of rows, one document each, with a duplicate and a table; return its path."""
    rows = [{"id": name, "text": text(name, n)} for n, name in enumerate(ANIMALS[:count], 2)]
    rows += [{"id": "copy", "text": text(ANIMALS[0], 2).upper()}, {"id": "table", "text": TABLE}]
    path = folder / "animals.jsonl"
    lines(path, rows)
    return path


def lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def config(folder: Path, model: Path, **changes: Any) -> AdaptConfig:
    """Return settings of a quick run in a folder with the documents."""
    settings: dict[str, Any] = {
        "documents": (str(folder / "animals.jsonl"),),
        "to": str(folder / "run"),
        "model": str(model),
        "kinds": ("keyword", "claim"),
        "max_tokens": 200,
        "held_out": 0.36,
        "steps": 2,
        "batch_size": 4,
        "generative_batch_size": 2,
        "general": (),
        "device": "cpu",
        "margin": 0.0,
    }
    return AdaptConfig(**settings | changes)
