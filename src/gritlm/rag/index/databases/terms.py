"""Filters as terms: texts that name and value have in common, for databases that index texts.

A passage has a term for each scalar of its metadata, so that a filter finds it by equality alone.
Numbers are compared by value (``1`` equals ``1.0``), other values by type and value, as LanceDB
compares them: see :mod:`gritlm.rag.index.filters`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from gritlm.errors import InputError
from gritlm.printable import excerpt
from gritlm.rag.index.filters import COLUMNS, Where, require_few_terms, values_of
from gritlm.rag.ingest.metadata import checked
from gritlm.rag.types import Scalar, Value


@dataclass(frozen=True)
class Condition:
    """Condition on one name of a filter.

    Attributes:
        name: name of metadata, or of a column.
        allowed: allowed values of a column, or allowed terms.
        absent: passages without this name fit too.
    """

    name: str
    allowed: tuple[str, ...]
    absent: bool = False

    @property
    def is_column(self) -> bool:
        """Whether the name is that of a column."""
        return self.name in COLUMNS


def conditions(where: Where, *, database: str) -> list[Condition]:
    """Return the conditions of a filter; all must hold.

    Raises:
        InputError: if the filter is SQL, empty, too long, or has values that metadata cannot hold.
    """
    if isinstance(where, str):
        raise InputError(
            f"filter {excerpt(where)!r} is SQL, which only an index of LanceDB takes; for "
            f"{database} pass {{'name': value}}"
        )
    if not isinstance(where, Mapping) or not where:
        raise InputError(f"where={where!r}; expected {{'name': value}}")
    require_few_terms(where)
    return [_condition(name, values) for name, values in where.items()]


def terms_of(metadata: Mapping[str, Value]) -> list[str]:
    """Return the terms of a passage's metadata; values that are lists have none."""
    return [term(name, value) for name, value in metadata.items() if not isinstance(value, list)]


def term(name: str, value: Scalar) -> str:
    """Return the term of a name and its value."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        # A whole number is written without a fraction, whatever its type.
        whole = value == int(value)
        return json.dumps([name, "number", str(int(value)) if whole else repr(value)])
    return json.dumps([name, value])


def _condition(name: str, values: object) -> Condition:
    allowed = [checked({name: value})[name] for value in values_of(name, values)]
    if name in COLUMNS:
        return Condition(name, tuple(map(str, allowed)))
    return Condition(name, tuple(term(name, value) for value in allowed), absent=None in allowed)
