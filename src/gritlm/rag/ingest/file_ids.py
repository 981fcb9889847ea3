"""Document ids of files: the name of the added folder and the path in it.

Two folders of the same name must not replace each other's documents. So a workspace keeps a list of
added folders with unique names: ``notes``, then ``home/notes`` for another folder ``notes``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path

from gritlm.atomic import replacing, sync
from gritlm.errors import InputError

log = logging.getLogger(__name__)

FILE = "folders.json"


class DocumentIds:
    """Unique names of added folders, and ids of the files in them.

    A folder keeps its name. If a folder no longer exists, because it or the workspace was moved,
    the next folder that would get its name takes it, with a warning in the log.

    Args:
        workspace: folder that stores the names; None to keep them in memory.

    Raises:
        InputError: if the stored names cannot be read.
    """

    def __init__(self, workspace: Path | None = None) -> None:
        self._file = None if workspace is None else workspace / FILE
        self._known = _read(self._file)

    def add(self, folder: Path) -> None:
        """Name a folder (absolute, without links), unless it or a parent has a name."""
        if within(self._known, folder) is not None:
            return
        name = free(self._known, folder)
        missing = next((other for other, its in self._known.items() if its == name), None)
        known = {other: its for other, its in self._known.items() if its != name}
        known[str(folder)] = name
        if self._file is not None:  # saved before any document uses the name
            with replacing(self._file) as temporary:
                temporary.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
            sync(self._file.parent)
        self._known = known
        default = _end(folder, 1)
        if missing is not None:
            log.warning(
                "%s is gone: %s is known as %r in its place, and replaces its documents of the "
                "same names",
                missing,
                folder,
                name,
            )
        elif name != default:
            log.warning("%s is known as %r: %r is another folder", folder, name, default)

    def of(self, file: Path) -> str:
        """Return the document id of a file (absolute path) in an added folder."""
        known = within(self._known, file)
        assert known is not None, f"{file} is in no added folder"
        return known


def within(names: Mapping[str, str], path: Path) -> str | None:
    """Return the id of a path, from its nearest named parent folder; None if it has none.

    Args:
        names: names of folders, by absolute path.
        path: absolute path of a file or folder.
    """
    for around in (path, *path.parents):
        if name := names.get(str(around)):
            return Path(name, path.relative_to(around)).as_posix()
    return None


def free(names: Mapping[str, str], folder: Path) -> str:
    """Return the shortest end of a folder's path that is free as a name.

    Args:
        names: names of folders, by absolute path; names of missing folders are free.
        folder: absolute path of the new folder.
    """
    folders = {name: other for other, name in names.items()}
    for name in _candidates(folder):
        if name in folders and _is_gone(folders[name]):
            return name
        if not any(_overlap(name, other) for other in folders):
            return name
    raise AssertionError("unreachable: numbered names never run out")


def _overlap(one: str, other: str) -> bool:
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")


def _candidates(folder: Path) -> Iterator[str]:
    for parts in range(1, max(len(folder.parts), 2)):
        yield _end(folder, parts)
    for number in count(2):
        yield f"{_end(folder, 1)}-{number}"


def _end(folder: Path, parts: int) -> str:
    return "/".join(folder.parts[1:][-parts:]) or "root"


def _is_gone(folder: str) -> bool:
    try:
        return not Path(folder).is_dir()
    except OSError:  # it may exist for other users
        return False


def _read(file: Path | None) -> dict[str, str]:
    if file is None or not file.exists():
        return {}
    try:
        names = json.loads(file.read_text(encoding="utf-8"))
        return {str(folder): str(name) for folder, name in names.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(
            f"{file} cannot be read ({error}); put it back, or delete it: then folders are named "
            "again when they are added"
        ) from None
