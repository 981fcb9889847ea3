"""A folder that is made once, by one process, and is in its place whole or not at all."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from gritlm.errors import DownloadError
from gritlm.runtime import sync

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def alone(target: Path, *, report: Callable[[str], None]) -> Iterator[None]:
    """One process at a time; one that has to wait reports it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        report(f"another process is making {target.name}; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A temporary folder beside ``target``; its ``model`` folder takes the place at the end.

    It is removed in the end, on errors and on ctrl-C too; what killed processes left is removed at
    the start, which is safe for whoever is :func:`alone`.
    """
    for stale in target.parent.glob(f".{target.name}.*.tmp"):
        shutil.rmtree(stale, ignore_errors=True)
    work = target.with_name(f".{target.name}.{uuid4().hex}.tmp")
    try:
        work.mkdir()
        yield work
        made = work / "model"
        for path in [*made.iterdir(), made]:
            sync(path)
        if target.exists():
            target.rename(work / "before")
        made.rename(target)
        sync(target.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def require_space(place: Path, needed: int) -> None:
    """Refuse to begin what would not fit.

    Raises:
        DownloadError: when fewer than ``needed`` bytes are free.
    """
    if _free(place) < needed:
        raise _no_space(place, needed)


@contextmanager
def explained(place: Path, needed: int) -> Iterator[None]:
    """Turns what a disk says into one line that says what to do."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if says_full(error):
            raise _no_space(place, needed) from error
        raise DownloadError(
            f"the model cannot be kept in {place}: {error}; set GRITLM_CACHE to a folder that can "
            "be written"
        ) from error


def says_full(error: BaseException) -> bool:
    """Whether an error is about a full disk; safetensors says so in its text only."""
    return getattr(error, "errno", None) in _NO_SPACE or any(
        f"os error {number})" in str(error) for number in _NO_SPACE
    )


def _free(place: Path) -> int:
    return shutil.disk_usage(next(at for at in (place, *place.parents) if at.exists())).free


def _no_space(place: Path, needed: int) -> DownloadError:
    return DownloadError(
        f"no room for the model in {place}: some {needed:,} bytes are needed while it is made, "
        f"{_free(place):,} are free; make room or set GRITLM_CACHE to another folder"
    )
