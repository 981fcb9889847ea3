"""Adapter from commands with dataclasses of options to typer's flat parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import wraps
from typing import Any, get_type_hints

from gritlm.cli.options import LogOptions


def spread(command: Callable[..., None], *, level: int | None = None) -> Callable[..., None]:
    """Return a command with one parameter per option, as typer expects it.

    Each parameter that is a dataclass of options is replaced by its fields. The options of
    :class:`LogOptions` are added and applied before the command runs.

    Args:
        command: the function of the command.
        level: log level when no log option is set; None leaves the level unchanged.
    """
    hints = get_type_hints(command, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    parameters = [
        parameter
        for plain in inspect.signature(command).parameters.values()
        for parameter in (
            _fields(groups[plain.name])
            if plain.name in groups
            else [plain.replace(kind=plain.KEYWORD_ONLY, annotation=hints[plain.name])]
        )
    ] + _fields(LogOptions)

    @wraps(command)
    def call(**values: Any) -> None:
        _take(LogOptions, values).apply(default=level)
        for name, group in groups.items():
            values[name] = _take(group, values)
        command(**values)

    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call


def _fields(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=hints[field.name],
        )
        for field in fields(group)
    ]


def _take(group: Any, values: dict[str, Any]) -> Any:
    return group(**{field.name: values.pop(field.name) for field in fields(group)})
