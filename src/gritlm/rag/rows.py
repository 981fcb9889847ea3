"""Rows with names and values, handed in or one a line of a file, to documents."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from blake3 import blake3

from gritlm.errors import InputError
from gritlm.rag.metadata import checked, encodable
from gritlm.rag.passages import Document

OWN = ("id", "title", "text", "metadata", "markdown")


def document(row: Mapping[str, Any], *, prefix: str = "") -> Document:
    """``{id?, title?, text, markdown?, metadata?}``; all else it holds is metadata, too.

    Args:
        prefix: stands in front of its id.

    Raises:
        InputError: for a row without text, or with values of other types.
    """
    text = _text(row, "text")
    if not text.strip():
        raise InputError("empty: 'text' is missing or holds only white space")
    title, given = _text(row, "title"), row.get("metadata") or {}
    if not isinstance(given, Mapping):
        raise InputError(f"'metadata' is {type(given).__name__}; expected names and values")
    others = {name: value for name, value in row.items() if name not in OWN}
    metadata = checked(others | dict(given))
    name = _id(row.get("id"))
    if name is None:
        about = json.dumps([title, text, metadata], sort_keys=True)
        name = blake3(about.encode()).hexdigest()[:32]
    marked = row.get("markdown", False)
    if not isinstance(marked, bool):
        raise InputError(f"'markdown' is {marked!r}; expected true or false")
    return Document(f"{prefix}{name}", text, title, metadata, markdown=marked)


def lines(file: IO[bytes], *, max_bytes: int) -> Iterator[tuple[int, dict[str, Any] | InputError]]:
    """Numbers, from 1, and objects of a file's lines that are not blank, or what is wrong."""
    number = 0
    while line := file.readline(max_bytes + 1):
        number += 1
        if len(line) > max_bytes:
            while line and not line.endswith(b"\n"):
                line = file.readline(max_bytes)
            yield number, InputError(f"a row of more than {max_bytes:,} bytes; cut it")
        elif line.strip():
            yield number, _parsed(line)


def _parsed(line: bytes) -> dict[str, Any] | InputError:
    try:
        row = json.loads(line.decode("utf-8-sig"), parse_constant=_no_number)
    except UnicodeDecodeError as error:
        return InputError(f"byte {error.start + 1} is not UTF-8; convert the file to UTF-8")
    except (ValueError, RecursionError) as error:
        return InputError(f"broken JSON ({error}); expected one object a line")
    if not isinstance(row, dict):
        return InputError(f"{type(row).__name__}; expected one JSON object a line")
    return row


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InputError(f"{name!r} is {type(value).__name__}; expected text")
    if not encodable(value):
        raise InputError(f"{name!r} holds half a surrogate pair; expected whole Unicode text")
    return value


def _id(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise InputError(f"'id' is {value!r}; expected text or a whole number")
    return _text({"id": str(value)}, "id")


def is_rows(path: Path) -> bool:
    """Whether a file holds one row a line, by its name."""
    return path.suffix.lower() in (".jsonl", ".ndjson")
