"""Names and values that passages are filtered by: what can be kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gritlm.errors import InputError
from gritlm.rag.passages import Scalar

LARGEST = 2**63  # whole numbers below it are kept exactly


def checked(metadata: Mapping[Any, Any]) -> dict[str, Scalar]:
    """The metadata as a dict of its own.

    Raises:
        InputError: for a name that is no text or empty, and for a value that is no text, finite
            number, true, false or null.
    """
    for name, value in metadata.items():
        if not isinstance(name, str) or not name or not encodable(name):
            raise InputError(f"{name!r} cannot name metadata; expected text that is not empty")
        if not _kept(value):
            raise InputError(
                f"metadata {name!r} is {_named(value)}; expected text, a finite number, true, "
                "false or null"
            )
    return dict(metadata)


def encodable(text: str) -> bool:
    """Whether this is whole Unicode text: half a surrogate pair can be written nowhere."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _kept(value: object) -> bool:
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, bool) or value is None:
        return True
    if isinstance(value, int):
        return -LARGEST <= value < LARGEST
    return isinstance(value, float) and math.isfinite(value)


def _named(value: object) -> str:
    if isinstance(value, int | float):
        return f"the number {value}"
    return "broken text" if isinstance(value, str) else f"of type {type(value).__name__}"
