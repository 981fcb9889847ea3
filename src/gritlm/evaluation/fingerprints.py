"""Short names for contents: weights, tasks. Equal contents, equal name; files are streamed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from gritlm.evaluation.embedding import instructions
from gritlm.evaluation.results import Half
from gritlm.evaluation.tasks.task import Task

_SIZE = 16  # bytes
_CHUNK = 1 << 22


def of_files(files: Iterable[tuple[str, Path]]) -> str:
    """The digest of files under names that do not depend on where they lie."""
    made = hashlib.blake2b(digest_size=_SIZE)
    for name, path in files:
        made.update(f"{name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                made.update(chunk)
    return made.hexdigest()


def of_values(*values: object) -> str:
    """The digest of values that JSON can hold."""
    text = json.dumps(values, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=_SIZE).hexdigest()


def of_task(task: Task | str, half: Half) -> str:
    """The digest of a local task, with all of its files; of a hub's task its name.

    What embeds is told instructions of ours where a task has none: they are part of it.
    """
    told_too = instructions.text() if half == "embedding" else ""
    if isinstance(task, str):
        return of_values("hub", task, told_too)
    paths = sorted(path for path in task.folder.rglob("*") if path.is_file())
    told = {key: str(value) for key, value in asdict(task).items() if key != "folder"}
    files = of_files(
        (path.relative_to(task.folder).as_posix(), path)
        for path in paths
        if "__pycache__" not in path.parts
    )
    return of_values(told, files, told_too)
