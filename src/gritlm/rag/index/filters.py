"""SQL conditions of filters on passages, with all values quoted."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeGuard

from gritlm.errors import InputError
from gritlm.rag.ingest.metadata import LARGEST, checked
from gritlm.rag.types import Scalar

Where = str | Mapping[str, Any]
COLUMNS = ("document_id", "title")  # filter names that are columns, not metadata
MOST_TERMS = 64  # values of all names together; each may be compared with every row
MOST_CHARACTERS = 2**14  # total length of all names and values


def condition(where: Where) -> str:
    """Return the SQL condition of a filter.

    A filter is SQL, or maps names to a value or to a list of allowed values. Numbers are compared
    by value (``1`` equals ``1.0``), other values by type and value.

    Raises:
        InputError: if the filter is empty, has too many values or characters, or has values that
            metadata cannot hold.
    """
    if isinstance(where, str):
        if not where.strip():
            raise InputError("where is empty; leave it out, or pass a condition")
        return where
    if not isinstance(where, Mapping) or not where:
        raise InputError(f"where={where!r}; expected {{'name': value}} or SQL")
    require_few_terms(where)
    return " AND ".join(_one_of(name, values) for name, values in where.items())


def names(where: Where) -> list[str]:
    """Return the metadata names in a filter; none for SQL."""
    return [] if isinstance(where, str) else [name for name in where if name not in COLUMNS]


def takes_none(where: Where) -> bool:
    """Return whether a filter may match passages that lack one of its names."""
    return not isinstance(where, str) and any(None in _many(value) for value in where.values())


def among(column: str, values: Iterable[str]) -> str:
    """Return the SQL condition that a column has one of these texts."""
    return f"{column} IN ({', '.join(map(quoted, sorted(values)))})"


def quoted(text: str) -> str:
    """Return a text as a SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def require_few_terms(where: Mapping[str, Any]) -> None:
    """Refuse a filter with so large a size that its search would be slow.

    Raises:
        InputError: if the filter has too many values or characters.
    """
    terms = sum(len(_many(values)) for values in where.values())
    if terms > MOST_TERMS:
        raise InputError(
            f"the filter has {terms:,} values of {len(where):,} names, at most {MOST_TERMS} values "
            "are taken; search with fewer"
        )
    size = sum(len(str(text)) for name in where for text in (name, *_many(where[name])))
    if size > MOST_CHARACTERS:
        raise InputError(
            f"the filter has {size:,} characters, at most {MOST_CHARACTERS:,} are taken; search "
            "with shorter values"
        )


def values_of(name: str, values: object) -> Collection[Any]:
    """Return the allowed values of a name in a filter.

    Raises:
        InputError: for an empty list.
    """
    many = _many(values)
    if not many:
        raise InputError(f"filter {name!r} is an empty list; expected values")
    return many


def _many(values: object) -> Collection[Any]:
    """Return a list of values as it is, and a single value as a list of one."""
    return values if isinstance(values, list | tuple | set | frozenset) else [values]


def _one_of(name: str, values: object) -> str:
    allowed: Sequence[Scalar] = [checked({name: value})[name] for value in values_of(name, values)]
    if name in COLUMNS:
        return among(name, map(str, allowed))
    # The name is a JSON string in a JSON path in a SQL string.
    path = quoted("$." + json.dumps(name, ensure_ascii=False))
    found = f"json_extract(metadata, {path})"
    numbers = [value for value in allowed if _is_number(value)]
    others = [quoted(_spelled(value)) for value in allowed if not _is_number(value)]
    # A double cannot tell whole numbers above 2^53 apart, so these are compared as such.
    integer = f"try_cast({found} AS bigint)"
    integers = [str(int(value)) for value in numbers if value == int(value)]
    floats = [repr(float(value)) for value in numbers if value == float(value)]
    terms = [f"{found} IS NULL"] if None in allowed else []
    terms += _in(found, others) + _in(integer, [each for each in integers if _is_bigint(each)])
    for term in _in(f"try_cast({found} AS double)", floats):
        terms.append(f"({integer} IS NULL AND {term})")
    return "(" + " OR ".join(terms) + ")"


def _in(column: str, literals: Sequence[str]) -> list[str]:
    """Return the condition that a column has one of some values, or nothing for no values."""
    if len(literals) < 2:
        return [f"{column} = {literal}" for literal in literals]
    return [f"{column} IN ({', '.join(dict.fromkeys(literals))})"]


def _spelled(value: Scalar) -> str:
    return json.dumps(value, ensure_ascii=False)


def _is_number(value: Scalar) -> TypeGuard[int | float]:
    """Return whether a value is a number and not a boolean."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_bigint(literal: str) -> bool:
    """Return whether an integer literal fits SQL's bigint."""
    return -LARGEST <= int(literal) < LARGEST
