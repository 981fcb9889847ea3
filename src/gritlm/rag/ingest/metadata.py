"""Validation and normalisation of metadata, the names and values for filters."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time
from typing import Any

from gritlm.errors import InputError
from gritlm.rag.types import Scalar, Value

LARGEST = 2**63  # integers below it are stored exactly
MAX_BYTES = 16_384  # bytes of a document's metadata as JSON: each passage stores a copy
DEEPEST = 8  # most levels of nested objects whose names are joined


def checked(metadata: Mapping[Any, Any]) -> dict[str, Scalar]:
    """Return a copy of metadata with scalar values.

    Raises:
        InputError: if a name is empty or not text, or a value is not text, a finite number, true,
            false or null.
    """
    for name, value in metadata.items():
        _check_name(name)
        if not _is_scalar(value):
            raise InputError(
                f"metadata {name!r} is {_named(value)}; expected text, a finite number, true, "
                "false or null"
            )
    return dict(metadata)


def normalise_metadata(metadata: Mapping[Any, Any]) -> dict[str, Value]:
    """Return a document's metadata in the form in which it is stored.

    Nested objects become dotted names for filters: ``{"author": {"name": "x"}}`` becomes
    ``author.name``. Lists of scalars stay lists, other lists become JSON text, and dates become
    ISO 8601 text.

    Raises:
        InputError: if a name or value cannot be stored, a name has two values, or the metadata has
            more than ``MAX_BYTES`` bytes.
    """
    found: dict[str, Value] = {}
    for name, value in _flat(metadata, "", 0):
        if name in found:
            raise InputError(f"metadata has two values named {_cut(name)!r}; rename one of them")
        found[name] = value
    size = len(json.dumps(found, ensure_ascii=False).encode())
    if size > MAX_BYTES:
        raise InputError(
            f"its metadata has {size:,} bytes; expected at most {MAX_BYTES:,}: move long values "
            "into the text, or leave them out"
        )
    return found


def encodable(text: str) -> bool:
    """Return whether text can be encoded as UTF-8: it has no unpaired surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _flat(values: Mapping[Any, Any], prefix: str, depth: int) -> Iterator[tuple[str, Value]]:
    for key, value in values.items():
        _check_name(key)
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value and depth < DEEPEST:
            yield from _flat(value, f"{name}.", depth + 1)
        else:
            yield name, _value(name, value)


def _value(name: str, value: object) -> Value:
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    if _is_scalar(value):
        return value  # type: ignore[return-value]
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value, key=repr) if isinstance(value, set | frozenset) else list(value)
        if all(map(_is_scalar, items)):
            return items
        value = items
    if isinstance(value, list | Mapping):
        return _as_json(name, value)
    raise InputError(
        f"metadata {_cut(name)!r} is {_named(value)}; expected text, a finite number, true, false, "
        "null, a list or an object"
    )


def _as_json(name: str, value: object) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"metadata {_cut(name)!r} cannot be kept as JSON: {error}") from None
    if not encodable(text):
        raise InputError(f"metadata {_cut(name)!r} is broken text")
    return text


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    raise TypeError(f"a value is of type {type(value).__name__}")


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not name or not encodable(name):
        raise InputError(
            f"{_cut(repr(name))} cannot name metadata; expected text that is not empty"
        )


def _is_scalar(value: object) -> bool:
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, bool) or value is None:
        return True
    if isinstance(value, int):
        return -LARGEST <= value < LARGEST
    return isinstance(value, float) and math.isfinite(value)


def _named(value: object) -> str:
    if isinstance(value, int | float):
        return f"the number {_cut(str(value))}"
    return "broken text" if isinstance(value, str) else f"of type {type(value).__name__}"


def _cut(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:80]}..."
