"""Atomic writing of folders by several processes: complete or absent."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError
from torch.distributed.checkpoint.api import CheckpointException

from gritlm import atomic
from gritlm.errors import TrainingError, one_line
from gritlm.lm.hub import checkpoint
from gritlm.train.run import collectives, parallel

_DISK_ERRORS = (OSError, SafetensorError, RuntimeError, CheckpointException)


def replacing(target: Path, write: Callable[[Path], None]) -> None:
    """Replace ``target`` by a folder that ``write`` fills, if all processes succeed.

    Args:
        target: folder to replace or create.
        write: called with an empty folder in every process.

    Raises:
        TrainingError: the message has the error of the disk; ``target`` is unchanged.
    """
    _staged(target.with_name(f".{target.name}.tmp"), target, write, _exchange)


def adding(target: Path, write: Callable[[Path], None]) -> None:
    """Add files to ``target`` from a folder that ``write`` fills, if all processes succeed.

    The temporary folder is inside ``target``: its parent may be another disk, or read-only.

    Args:
        target: existing folder.
        write: called with an empty folder in every process.

    Raises:
        TrainingError: the message has the error of the disk; ``target`` is unchanged.
    """
    _staged(target / ".model.tmp", target, write, _join)


def _staged(
    work: Path, target: Path, write: Callable[[Path], None], publish: Callable[[Path, Path], None]
) -> None:
    error = _caught(lambda: _create(work) if parallel.is_main() else None)
    collectives.most(0)  # processes wait until the folder exists
    made = work / "made"
    error = error or _caught(lambda: write(made))
    failed = collectives.most(int(error is not None))
    if parallel.is_main():
        error = error or (None if failed else _caught(lambda: publish(made, target)))
        shutil.rmtree(work, ignore_errors=True)
    if collectives.most(int(error is not None)):
        reason = one_line(error or "another process could not write")
        raise TrainingError(
            f"{target} cannot be written: {reason}; earlier checkpoints are complete"
        ) from error


def _caught(work: Callable[[], None]) -> BaseException | None:
    try:
        work()
    except _DISK_ERRORS as error:
        return error
    return None


def _create(work: Path) -> None:
    """Create the temporary folder with the empty folder to fill; remove one of a killed run."""
    shutil.rmtree(work, ignore_errors=True)
    (work / "made").mkdir(parents=True)


def _exchange(made: Path, target: Path) -> None:
    atomic.exchange(made, target, before=made.with_name("before"))


def _join(made: Path, target: Path) -> None:
    atomic.sync_tree(made)
    checkpoint.join(made, target)
