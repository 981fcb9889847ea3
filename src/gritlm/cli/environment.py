"""Options that are environment variables too."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import typer

from gritlm.errors import InputError

PREFIX = "GRITLM_"


def option(*names: str, env: str, help: str, panel: str, **more: Any) -> Any:
    """Return a typer option with its variable, ``GRITLM_`` and ``env``."""
    return typer.Option(
        *names, envvar=PREFIX + env, help=help, rich_help_panel=panel, show_envvar=True, **more
    )


def lines(
    context: typer.Context, parameter: typer.CallbackParam, values: list[str] | None
) -> list[str] | None:
    """Read a variable as one value a line, where typer splits at each space."""
    source = context.get_parameter_source(parameter.name or "")
    if source is None or source.name != "ENVIRONMENT":
        return values
    given = os.environ[str(parameter.envvar)].splitlines()
    return [line.strip() for line in given if line.strip()]


def require_values(environment: Mapping[str, str]) -> None:
    """Refuse variables without a value: they would count as left out.

    Raises:
        InputError: naming the first of them.
    """
    for name, value in environment.items():
        if name.startswith(PREFIX) and not value.strip():
            raise InputError(f"{name} is set but empty; give it a value, or unset it")
