"""Conditions on passages, written so that no value can be read as SQL."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gritlm.errors import InputError
from gritlm.rag.metadata import checked
from gritlm.rag.passages import Scalar

Where = str | Mapping[str, Any]
COLUMNS = ("document_id", "title")  # names of a filter that are no metadata


def condition(where: Where) -> str:
    """SQL for a filter: SQL as it is, or names with a value, or with a list of which one fits.

    Numbers are equal by value (``1`` and ``1.0``), all else by type and value, too.

    Raises:
        InputError: for an empty filter, and for values that metadata cannot have.
    """
    if isinstance(where, str):
        if not where.strip():
            raise InputError("where is empty; leave it out, or hand in a condition")
        return where
    if not isinstance(where, Mapping) or not where:
        raise InputError(f"where={where!r}; expected {{'name': value}} or SQL")
    return " AND ".join(_one_of(name, values) for name, values in where.items())


def names(where: Where) -> list[str]:
    """Names of metadata that a filter asks for."""
    return [] if isinstance(where, str) else [name for name in where if name not in COLUMNS]


def takes_none(where: Where) -> bool:
    """Whether passages without one of its names may fulfil a filter."""
    return not isinstance(where, str) and any(
        None in (value if isinstance(value, list | tuple | set | frozenset) else [value])
        for value in where.values()
    )


def among(column: str, values: Iterable[str]) -> str:
    """SQL: the column has one of these texts."""
    return f"{column} IN ({', '.join(map(quoted, sorted(values)))})"


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _one_of(name: str, values: object) -> str:
    if not isinstance(values, list | tuple | set | frozenset):
        values = [values]
    if not values:
        raise InputError(f"filter {name!r} is an empty list; expected values")
    allowed: Sequence[Scalar] = [checked({name: value})[name] for value in values]
    if name in COLUMNS:
        return among(name, map(str, allowed))
    return "(" + " OR ".join(_is(name, value) for value in allowed) + ")"


def _is(name: str, value: Scalar) -> str:
    # The name is a JSON string in a JSON path in a SQL string.
    path = quoted("$." + json.dumps(name, ensure_ascii=False))
    found = f"json_extract(metadata, {path})"
    if value is None:
        return f"{found} IS NULL OR {found} = 'null'"
    exact = f"{found} = {quoted(json.dumps(value, ensure_ascii=False))}"
    if isinstance(value, bool | str):
        return exact
    if isinstance(value, int) and value != float(value):
        return exact  # a float cannot tell it from its neighbours
    return f"try_cast({found} AS double) = {float(value)!r}"
