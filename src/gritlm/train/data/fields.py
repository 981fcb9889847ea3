"""Keys and values of a record, with checks that raise errors naming their place."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from reprlib import repr as short
from typing import Any

from gritlm.errors import InputError
from gritlm.lm.tokens import require_text
from gritlm.train.config import SourceConfig


@dataclass(frozen=True)
class RecordFields:
    """Fields of a record; each check returns the value or raises InputError with its place.

    Attributes:
        values: values by key, without nulls, which Parquet uses for absent keys.
        place: ``file:line``.
        source: source of the record, with its default instructions.
    """

    values: Mapping[str, Any]
    place: str
    source: SourceConfig

    def error(self, text: str) -> InputError:
        return InputError(f"{self.place}: {text}")

    def wrong(self, value: Any, what: str, expected: str) -> InputError:
        return self.error(f"{what} is {short(value)} ({type(value).__name__}); expected {expected}")

    def text(self, value: Any, what: str) -> str:
        """Return a text; raise an error if it is only white space."""
        text = self.string(value, what)
        if not text.strip():
            raise self.error(f"{what} is empty; give it a text, or leave the row out")
        return text

    def string(self, value: Any, what: str) -> str:
        """Return a text that may be empty."""
        if not isinstance(value, str):
            raise self.wrong(value, what, "a text")
        require_text(value, f"{self.place}: {what}")
        return value

    def number(self, value: Any, what: str) -> float:
        """Return a finite number; booleans raise an error."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(value, what, "a number")
        try:
            number = float(value)
        except OverflowError:
            raise self.wrong(value, what, "a number below 1e308") from None
        if not math.isfinite(number):
            raise self.error(f"{what} is {number}; expected a number that is finite")
        return number

    def items(self, value: Any, what: str, *, of: str) -> list[Any]:
        """Return a list with at least one item."""
        if not isinstance(value, list | tuple):
            raise self.wrong(value, what, f"a list of {of}")
        if not value:
            raise self.error(f"{what} is empty; expected at least one of {of}")
        return list(value)
