"""Folders written by several processes: in their place whole, or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError
from torch.distributed.checkpoint.api import CheckpointException

from gritlm.errors import TrainingError
from gritlm.lm.hub import checkpoint
from gritlm.train.run import collectives, parallel

_DISK_ERRORS = (OSError, SafetensorError, RuntimeError, CheckpointException)


def replacing(target: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a folder that takes the place of ``target`` when all processes did well.

    Raises:
        TrainingError: naming what the disk said; ``target`` is then as it was.
    """
    _staged(target.with_name(f".{target.name}.tmp"), target, write, _exchange)


def adding(target: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a folder whose files then join those of ``target``; as above.

    That folder stands inside of ``target``: what is around it may be another disk, or read-only.
    """
    _staged(target / ".model.tmp", target, write, _join)


def _staged(
    work: Path, target: Path, write: Callable[[Path], None], place: Callable[[Path, Path], None]
) -> None:
    error = _tried(lambda: _emptied(work) if parallel.is_main() else None)
    collectives.most(0)  # nobody writes before the folder is there
    error = error or _tried(lambda: write(work))
    failed = collectives.most(int(error is not None))
    if parallel.is_main():
        error = error or (None if failed else _tried(lambda: place(work, target)))
        shutil.rmtree(work, ignore_errors=True)
    if collectives.most(int(error is not None)):
        said = " ".join(str(error or "another process could not write").split())
        raise TrainingError(
            f"{target} cannot be written: {said}; what was saved before is whole"
        ) from error


def _tried(work: Callable[[], None]) -> BaseException | None:
    try:
        work()
    except _DISK_ERRORS as error:
        return error
    return None


def _emptied(work: Path) -> None:
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)


def _exchange(work: Path, target: Path) -> None:
    _sync(work)
    if target.exists():
        shutil.rmtree(target)
    work.rename(target)


def _join(work: Path, target: Path) -> None:
    _sync(work)
    checkpoint.join(work, target)


def _sync(folder: Path) -> None:
    for path in [*sorted(folder.rglob("*")), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
