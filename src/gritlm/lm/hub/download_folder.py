"""Folder of a downloaded model: its lock, free space, and errors of its disk."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from gritlm.errors import DownloadError

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def alone(target: Path, *, report: Callable[[str], None]) -> Iterator[None]:
    """Hold a lock on a folder, so that only one process creates it.

    Args:
        target: the folder.
        report: function that gets a message if another process holds the lock.
    """
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


def require_space(place: Path, needed: int) -> None:
    """Raise an error unless a number of bytes is free on the disk of a folder.

    Args:
        place: the folder, which need not exist.
        needed: required space in bytes.

    Raises:
        DownloadError: for less free space.
    """
    if _free(place) < needed:
        raise _no_space(place, needed)


@contextmanager
def explained(place: Path, needed: int) -> Iterator[None]:
    """Turn errors of the file system into a :class:`DownloadError` of one line.

    Args:
        place: folder that is written.
        needed: required space in bytes, for the message.
    """
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
    """Return whether an error reports a full disk; safetensors has it in the message only."""
    return getattr(error, "errno", None) in _NO_SPACE or any(
        f"os error {number})" in str(error) for number in _NO_SPACE
    )


def _free(place: Path) -> int:
    return shutil.disk_usage(next(at for at in (place, *place.parents) if at.exists())).free


def _no_space(place: Path, needed: int) -> DownloadError:
    return DownloadError(
        f"no room for the model in {place}: some {needed:,} bytes are needed temporarily, "
        f"{_free(place):,} are free; make room or set GRITLM_CACHE to another folder"
    )
