"""``gritlm train``: a training run described by a TOML file."""

from __future__ import annotations

import logging
import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import typer

from gritlm.cli import logs, terminal
from gritlm.cli.options import SkipBad
from gritlm.distribution import install_hint
from gritlm.errors import MissingExtraError

if TYPE_CHECKING:
    from gritlm.train.config import TrainConfig

STOPPED = 130


def train(
    file: Annotated[str, typer.Argument(help="Configuration of the run.", metavar="RUN.toml")],
    *,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Override a value of the file: section.key=value; may be repeated."
        ),
    ] = None,
    skip_bad: SkipBad = False,
    ray: Annotated[
        bool,
        typer.Option("--ray", help="Train in processes on a Ray cluster, instead of torchrun."),
    ] = False,
    address: Annotated[
        str | None,
        typer.Option(help="With --ray: address of the cluster. Default: this machine alone."),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="With --ray: number of processes, on a GPU each.")
    ] = 1,
) -> None:
    """Train a model to embed and to generate.

    Prints the output folder at the end. Ctrl-C writes a checkpoint from which the run can continue.
    """
    run = _run(file, [*(set_ or []), *(["data.skip_bad_rows=true"] if skip_bad else [])])
    logs.hush_libraries()
    # PEFT imports it if it is installed; it warns about missing 4-bit kernels on a CPU.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if ray:
        from gritlm.scale.training import Workers
        from gritlm.scale.training import train as start_workers

        result = start_workers(run, Workers(workers), address=address, report=logs.note_above_bar)
    else:
        from gritlm.train.trainer import train as start

        result = start(run, report=logs.note_above_bar, progress=logs.progress())
    first = os.environ.get("RANK", "0") == "0"  # only one process of torchrun prints
    if result.stopped and first:
        logs.write_message(
            "stopped",
            f"after step {result.steps}; to go on, give the same command with "
            "--set training.resume_from_checkpoint=true",
        )
    if result.stopped:
        raise typer.Exit(STOPPED)
    if first:
        terminal.write(f"{result.output_dir}\n")


def _run(file: str, overrides: list[str]) -> TrainConfig:
    """Return the checked configuration, before any large library is imported.

    Raises:
        InputError: for an invalid value, with file, section and key.
        MissingExtraError: for a library of the train extra that is not installed.
    """
    from gritlm import config
    from gritlm.train.config import TrainConfig

    run = config.read(file, TrainConfig, overrides)
    if find_spec("datasets") is None:
        raise MissingExtraError(
            "training needs the library 'datasets', which is not installed; "
            f"{install_hint('train')}"
        )
    return run
