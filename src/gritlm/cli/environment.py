"""Command-line options that can be set by environment variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import typer

from gritlm.errors import InputError

PREFIX = "GRITLM_"


def option(*names: str, env: str, help: str, panel: str, **more: Any) -> Any:
    """Return a typer option that is also read from the variable ``GRITLM_<env>``."""
    return typer.Option(
        *names, envvar=PREFIX + env, help=help, rich_help_panel=panel, show_envvar=True, **more
    )


def lines(
    context: typer.Context, parameter: typer.CallbackParam, values: list[str] | None
) -> list[str] | None:
    """Return the values of a repeated option; its variable holds one value per line.

    typer itself splits the variable at each space.
    """
    source = context.get_parameter_source(parameter.name or "")
    if source is None or source.name != "ENVIRONMENT":
        return values
    entries = os.environ[str(parameter.envvar)].splitlines()
    return [line.strip() for line in entries if line.strip()]


def require_values(environment: Mapping[str, str]) -> None:
    """Refuse empty ``GRITLM_`` variables, which typer would treat as missing.

    Raises:
        InputError: for the first empty variable, with its name.
    """
    for name, value in environment.items():
        if name.startswith(PREFIX) and not value.strip():
            raise InputError(f"{name} is set but empty; give it a value, or unset it")
