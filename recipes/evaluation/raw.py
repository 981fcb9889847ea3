"""Files of the data sets -> Python values; and small tools for their texts."""

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
    """JSON objects, one a line; the file may be packed (.gz)."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in content.decode("utf-8").split("\n") if line.strip()]


def read_table(path: Path, *, tabs: bool = False) -> list[dict[str, str]]:
    """Rows by the names in the first line."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t" if tabs else ","))


def about(folder: Path) -> dict[str, str]:
    """What SOURCE.txt of a data set says, by its words before the colon."""
    lines = (folder / "SOURCE.txt").read_text(encoding="utf-8").splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def one_line(text: str) -> str:
    """Any white space, also that of no width, is one space."""
    return " ".join(text.replace("\u200b", " ").split())


def words(text: str) -> list[str]:
    """Letters and digits only, without case."""
    return re.findall(r"\w+", text.casefold())


def holds(text: str, answers: Iterable[str]) -> bool:
    """Whether one of the answers stands in the text, word by word."""
    plain = f" {' '.join(words(text))} "
    return any(f" {' '.join(words(answer))} " in plain for answer in answers)


def number(value: Any) -> int:
    """The same number for the same text or JSON value on every machine."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "big")


def mixed(values: Iterable[Value]) -> list[Value]:
    """In an order that says nothing, and is always the same: a beginning of it is a sample."""
    return sorted(values, key=number)
