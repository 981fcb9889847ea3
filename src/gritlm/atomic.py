"""Atomic writing of files and folders: complete or unchanged, also after a crash."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

_ENDING = ".tmp"  # of temporary files and folders


def sync(path: Path) -> None:
    """Flush a file to disk; for a folder, its list of new, renamed and removed files."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Flush a folder to disk, with all files and folders in it."""
    for path in [*sorted(folder.rglob("*")), folder]:
        sync(path)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file that replaces ``path`` when the block succeeds.

    On an error or ctrl-C the temporary file is removed, and ``path`` is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(_temporary_name(path))
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def is_temporary(name: str, *, of: Collection[str]) -> bool:
    """Return whether a name is that of a temporary file of :func:`replacing`.

    Args:
        name: file name.
        of: names of the files that may be replaced.
    """
    known = re.fullmatch(rf"\.(.+)\.[0-9a-f]{{32}}{re.escape(_ENDING)}", name)
    return known is not None and known[1] in of


@contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder, whose ``model`` folder replaces ``target`` at the end.

    The temporary folder is always removed, also on errors and ctrl-C. Folders of killed processes
    are removed first, so only one process may do this at a time.

    Args:
        target: the folder to create or replace.
    """
    for stale in target.parent.glob(f".{target.name}.*{_ENDING}"):
        shutil.rmtree(stale, ignore_errors=True)
    work = target.with_name(_temporary_name(target))
    try:
        work.mkdir()
        yield work
        exchange(work / "model", target, before=work / "before")
    finally:
        shutil.rmtree(work, ignore_errors=True)


def exchange(made: Path, target: Path, *, before: Path) -> None:
    """Flush a folder to disk and move it to ``target``.

    Args:
        made: the folder.
        target: path that it gets.
        before: path that an existing ``target`` gets; all three are on the same disk.
    """
    sync_tree(made)
    if target.exists():
        target.rename(before)
    try:
        made.rename(target)
    except BaseException:
        if before.exists():
            before.rename(target)
        raise
    sync(target.parent)


def _temporary_name(path: Path) -> str:
    return f".{path.name}.{uuid4().hex}{_ENDING}"
