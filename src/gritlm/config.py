"""Frozen dataclasses read from a TOML file and ``section.key=value`` overrides.

Fields may be ``bool``, ``int``, ``float``, ``str``, ``Path``, ``Literal``, other dataclasses, and
lists, tuples, dicts and unions (``| None``) of these. An unknown key is an error.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from gritlm.errors import InputError, did_you_mean

T = TypeVar("T")

_EXPECTED = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string",
    Path: "a path",
    list: "a list",
    tuple: "a list",
    dict: "a section",
    NoneType: "nothing",
}


@dataclass(frozen=True)
class _Override:
    """A value of the command line: TOML if it can be parsed, else plain text."""

    text: str
    source: str

    def readings(self) -> list[Any]:
        try:
            return [tomllib.loads(f"value = {self.text}")["value"], self.text]
        except tomllib.TOMLDecodeError:
            return [self.text]


@dataclass(frozen=True)
class _Place:
    """The position of a value for messages: file or override, and section."""

    source: str
    section: str = ""

    def inside(self, key: str) -> _Place:
        return _Place(self.source, f"{self.section}.{key}".lstrip("."))

    def error(self, text: str) -> InputError:
        section = f"[{self.section}]: " if self.section else ""
        return InputError(f"{self.source}: {section}{text}")


def read(path: str | Path, kind: type[T], overrides: Sequence[str] = ()) -> T:
    """Return the settings of a TOML file as an instance of a dataclass.

    Args:
        path: path of the TOML file.
        kind: the dataclass, whose fields are the sections; fields without a default are required.
        overrides: ``section.key=value``; a later override wins over an earlier one. The value is
            TOML; quotes around text may be omitted.

    Raises:
        InputError: for an unknown or missing key or a value of another type, with the file (or
            override), the section, the key, the value and the expected type.
    """
    table = _load(Path(path))
    for override in overrides:
        _set(table, override)
    return _section(table, kind, _Place(str(path)))


def from_mapping(values: Mapping[str, Any], kind: type[T], *, source: str) -> T:
    """Return settings that were read already, as an instance of a dataclass.

    Args:
        values: sections, or values, by the names of the fields.
        kind: the dataclass.
        source: name of the values in messages.

    Raises:
        InputError: for an unknown or missing key or a value of another type.
    """
    return _section(dict(values), kind, _Place(source))


def _load(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:  # invalid TOML or UTF-8
        raise InputError(f"{path} is not valid TOML: {error}") from None


def _set(table: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    *sections, key = name.strip().split(".")
    if not equals or not all([*sections, key]):
        raise InputError(f"--set {override!r}: expected section.key=value")
    for section in sections:
        inner = table.setdefault(section, {})
        if not isinstance(inner, dict):
            raise InputError(f"--set {override!r}: {section!r} is a value, not a section")
        table = inner
    table[key] = _Override(text.strip(), f"--set {override}")


def _section(table: dict[str, Any], kind: type[T], place: _Place) -> T:
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    types = get_type_hints(kind)
    for key, value in table.items():
        if key not in known:
            what = "section" if isinstance(value, dict) else "key"
            while isinstance(value, dict) and len(value) == 1:  # a section created by an override
                (value,) = value.values()
            raise _at(place, value).error(f"unknown {what} {key!r}{did_you_mean(key, known)}")
    for key, field in known.items():
        if key not in table and _required(field):
            raise place.error(f"{key!r} is missing; expected {_expected(types[key])}")
    values = {key: _value(value, types[key], key, place) for key, value in table.items()}
    try:
        return kind(**values)
    except InputError as error:  # raised by __post_init__
        raise place.error(str(error)) from None


def _value(value: Any, kind: Any, key: str, place: _Place) -> Any:
    """Convert a value of TOML to a type.

    Raises:
        InputError: for a value of another type.
    """
    place = _at(place, value)
    if isinstance(value, _Override):
        fitting = [reading for reading in value.readings() if _fits(reading, kind)]
        value = (fitting or value.readings())[0]
    chosen = next((each for each in _alternatives(kind) if _fits(value, each)), None)
    if chosen is None:
        raise place.error(f"{key} = {_shown(value)}; expected {_expected(kind)}")
    if is_dataclass(chosen):
        return _section(value, chosen, place.inside(key))  # type: ignore[arg-type]
    inner = get_args(chosen)
    if isinstance(value, list):
        items = [_value(item, inner[0] if inner else Any, key, place) for item in value]
        return tuple(items) if get_origin(chosen) is tuple or chosen is tuple else items
    if isinstance(value, dict):
        each = inner[1] if inner else Any
        return {name: _value(item, each, name, place.inside(key)) for name, item in value.items()}
    return chosen(value) if chosen in (float, Path) else value


def _fits(value: Any, kind: Any) -> bool:
    """Return whether the outermost type of a value is the expected one."""
    origin = get_origin(kind) or kind
    if origin in (Union, UnionType):
        return any(_fits(value, each) for each in get_args(kind))
    if origin is Literal:
        return value in get_args(kind)
    if is_dataclass(origin) or origin is dict:
        return isinstance(value, dict)
    if origin is Any:
        return True
    if isinstance(value, bool):
        return origin is bool
    accepted: dict[Any, Any] = {float: (int, float), Path: str, list: list, tuple: list}
    return isinstance(value, accepted.get(origin, origin))


def _alternatives(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _expected(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    names = [
        _expected(each)
        if get_origin(each) is Literal
        else _EXPECTED.get(get_origin(each) or each, "a section")
        for each in _alternatives(kind)
        if each is not NoneType
    ]
    return " or ".join(names)


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _at(place: _Place, value: Any) -> _Place:
    """Return the place of a value: its override, or the place of the file."""
    return _Place(value.source, place.section) if isinstance(value, _Override) else place


def _required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a phrase for each setting of a run that is not what it was, sorted by name.

    Args:
        before: settings of the earlier run.
        now: settings of this run.
    """
    return [
        f"{name} was {before.get(name)!r} and is {now.get(name)!r}"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]
