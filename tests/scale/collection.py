"""A small collection of passages, as files of every format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import tiny

# Of Ray and of the clients of object stores; pytest makes errors of all others.
WARNINGS = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def passage(number: int) -> str:
    return f"Passage {number}: " + " ".join(tiny.SENTENCES[: 1 + number % 5])


def rows(count: int) -> list[dict[str, Any]]:
    return [{"id": f"d{number:04d}", "text": passage(number)} for number in range(count)]


def write_lines(path: Path, content: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
    return path


def write_parquet(path: Path, content: list[dict[str, Any]], group: int = 1000) -> Path:
    pq.write_table(pa.Table.from_pylist(content), path, row_group_size=group)
    return path


def table_of(output: Path) -> tuple[list[str], np.ndarray]:
    """Return ids and vectors of an output, sorted by id."""
    table = pq.read_table(output).sort_by("id")
    return table["id"].to_pylist(), np.array(table["embedding"].to_pylist(), dtype=np.float32)


def rejected_of(output: Path) -> dict[str, str]:
    table = pq.read_table(output / "_rejected")
    return dict(zip(table["id"].to_pylist(), table["reason"].to_pylist(), strict=True))
