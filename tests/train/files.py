"""Files of training rows for tests, and what becomes of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gritlm.errors import InputError
from gritlm.train.config import SourceConfig
from gritlm.train.data.examples import EmbeddingExample
from gritlm.train.data.sources import Dataset, load


def pair(number: int) -> dict[str, object]:
    return {"query": ["i", f"query {number}"], "pos": [f"answer {number}"], "neg": ["no"]}


def lines(path: Path, records: list[object], *, end: str = "\n") -> Path:
    path.write_text("".join(json.dumps(each) + end for each in records), "utf-8", newline="")
    return path


def pairs(path: Path | str, **settings: object) -> Dataset:
    return load(SourceConfig(str(path), **settings), "embedding")


def queries(rows: Dataset) -> list[str]:
    return [row.query.text for row in rows if isinstance(row, EmbeddingExample)]


def refused(path: Path | str, **settings: object) -> str:
    """The one line that says why a source cannot be used."""
    with pytest.raises(InputError) as caught:
        pairs(path, **settings)
    text = str(caught.value)
    assert "\n" not in text
    return text
