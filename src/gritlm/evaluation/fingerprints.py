"""Digests of weights and tasks; large files are streamed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from gritlm.evaluation.embedding import instructions
from gritlm.evaluation.results import Kind
from gritlm.evaluation.tasks.task import Task

_SIZE = 16  # bytes
_CHUNK = 1 << 22


def of_files(files: Iterable[tuple[str, Path]]) -> str:
    """Return the digest of files.

    Args:
        files: name and path of each file; the name should not depend on the machine.
    """
    digest = hashlib.blake2b(digest_size=_SIZE)
    for name, path in files:
        digest.update(f"{name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def of_values(*values: object) -> str:
    """Return the digest of values that JSON can hold."""
    text = json.dumps(values, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=_SIZE).hexdigest()


def of_task(task: Task | str, kind: Kind) -> str:
    """Return the digest of a task: of all files of a local one, of the name of a hub's.

    Embedding tasks without an instruction take ours, so these are part of the digest.
    """
    defaults = instructions.text() if kind == "embedding" else ""
    if isinstance(task, str):
        return of_values("hub", task, defaults)
    paths = sorted(path for path in task.folder.rglob("*") if path.is_file())
    fields = {key: str(value) for key, value in asdict(task).items() if key != "folder"}
    files = of_files(
        (path.relative_to(task.folder).as_posix(), path)
        for path in paths
        if "__pycache__" not in path.parts
    )
    return of_values(fields, files, defaults)
