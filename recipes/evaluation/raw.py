"""Readers of raw dataset files, and text utilities."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

Value = TypeVar("Value")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of JSON lines, possibly compressed (.gz)."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in content.decode("utf-8").split("\n") if line.strip()]


def read_table(path: Path, *, tabs: bool = False) -> list[dict[str, str]]:
    """Return the rows of a table by the names in its first line."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t" if tabs else ","))


def about(folder: Path) -> dict[str, str]:
    """Return the fields of a dataset's SOURCE.txt by the words before the colon."""
    lines = (folder / "SOURCE.txt").read_text(encoding="utf-8").splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def one_line(text: str) -> str:
    """Return the text with single spaces for all white space, zero-width included."""
    return " ".join(text.replace("\u200b", " ").split())


def words(text: str) -> list[str]:
    """Return the words of a text in lower case: letters and digits only."""
    return re.findall(r"\w+", text.casefold())


def holds(text: str, answers: Iterable[str]) -> bool:
    """Return whether the text has one of the answers, word by word."""
    plain = f" {' '.join(words(text))} "
    return any(f" {' '.join(words(answer))} " in plain for answer in answers)


def number(value: Any) -> int:
    """Return a hash of a text or JSON value that is the same on every machine."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "big")


def mixed(values: Iterable[Value]) -> list[Value]:
    """Return the values shuffled reproducibly, so that any prefix is a sample."""
    return sorted(values, key=number)
