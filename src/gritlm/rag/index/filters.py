"""Conditions on passages, written so that no value can be read as SQL."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeGuard

from gritlm.errors import InputError
from gritlm.rag.ingest.metadata import LARGEST, checked
from gritlm.rag.types import Scalar

Where = str | Mapping[str, Any]
COLUMNS = ("document_id", "title")  # names of a filter that are no metadata
MOST_TERMS = 64  # values of all names together; each may be compared with every row
MOST_CHARACTERS = 2**14  # of all names and values together


def condition(where: Where) -> str:
    """SQL for a filter: SQL as it is, or names with a value, or with a list of which one fits.

    Numbers are equal by value (``1`` and ``1.0``), all else by type and value, too.

    Raises:
        InputError: for an empty filter, for one with more terms or characters than are taken, and
            for values that metadata cannot have.
    """
    if isinstance(where, str):
        if not where.strip():
            raise InputError("where is empty; leave it out, or hand in a condition")
        return where
    if not isinstance(where, Mapping) or not where:
        raise InputError(f"where={where!r}; expected {{'name': value}} or SQL")
    require_few_terms(where)
    return " AND ".join(_one_of(name, values) for name, values in where.items())


def names(where: Where) -> list[str]:
    """Names of metadata that a filter asks for."""
    return [] if isinstance(where, str) else [name for name in where if name not in COLUMNS]


def takes_none(where: Where) -> bool:
    """Whether passages without one of its names may fulfil a filter."""
    return not isinstance(where, str) and any(None in _many(value) for value in where.values())


def among(column: str, values: Iterable[str]) -> str:
    """SQL: the column has one of these texts."""
    return f"{column} IN ({', '.join(map(quoted, sorted(values)))})"


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def require_few_terms(where: Mapping[str, Any]) -> None:
    """Refuse a filter that takes long to search by.

    Raises:
        InputError: with the numbers.
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


def _many(values: object) -> Collection[Any]:
    """Return a list of values as it is, and a single value as a list of one."""
    return values if isinstance(values, list | tuple | set | frozenset) else [values]


def _one_of(name: str, values: object) -> str:
    many = _many(values)
    if not many:
        raise InputError(f"filter {name!r} is an empty list; expected values")
    allowed: Sequence[Scalar] = [checked({name: value})[name] for value in many]
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
    """Return whether a value is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_bigint(literal: str) -> bool:
    """Return whether SQL has a type for this whole number."""
    return -LARGEST <= int(literal) < LARGEST
