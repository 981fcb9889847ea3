"""Recursive listing of files, sorted by name; skipped folders are reported."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from gritlm.rag.ingest.skips import SkippedSource, TakesSkipped
from gritlm.rag.workspace_marker import is_store


def files(path: Path, skipped: TakesSkipped) -> Iterator[Path]:
    """Yield a file, or the files of a folder and all its subfolders.

    Hidden files, hidden folders, and workspaces inside the folder are left out without a report.
    Links to folders are not followed, so no file is read twice and no loop occurs.

    Args:
        path: file or folder.
        skipped: receives links to folders, and folders that cannot be read.
    """
    if not path.is_dir():
        yield path
        return
    if is_store(path):
        skipped.append(SkippedSource(str(path), "a store that gritlm made; expected documents"))
        return

    def unreadable(error: OSError) -> None:
        skipped.append(SkippedSource(str(error.filename), f"unreadable: {error.strerror}"))

    for folder, folders, names in os.walk(path, onerror=unreadable):
        folders[:] = [name for name in _visible(folders) if _is_walked(Path(folder, name), skipped)]
        for name in _visible(names):
            yield Path(folder, name)


def _visible(names: list[str]) -> list[str]:
    return sorted(name for name in names if not name.startswith("."))


def _is_walked(folder: Path, skipped: TakesSkipped) -> bool:
    if folder.is_symlink():
        target = folder.resolve()
        skipped.append(
            SkippedSource(
                str(folder), f"a link to a folder is not followed; add {target} by its name"
            )
        )
        return False
    return not is_store(folder)
