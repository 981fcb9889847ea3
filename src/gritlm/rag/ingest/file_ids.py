"""What files are known by: the name of the folder that they came from, and their path in it.

Folders of one name must not take each other's places. So a store keeps a list of the folders that
it was given, each under a name of its own: ``notes``, and ``home/notes`` for the next one.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path

from gritlm.errors import InputError
from gritlm.runtime import replacing, sync

log = logging.getLogger(__name__)

FILE = "folders.json"


class DocumentIds:
    """Names of folders, and by them of files.

    A name stays for good. A folder that is gone leaves its name to the next one that would get
    it, which is told: it was moved, or the store was.

    Args:
        place: of the store that remembers them; None for as long as this object lives.

    Raises:
        InputError: when what the store remembers cannot be read.
    """

    def __init__(self, place: Path | None = None) -> None:
        self._file = None if place is None else place / FILE
        self._known = _read(self._file)

    def add(self, folder: Path) -> None:
        """Give a folder (absolute, real) a name, unless it or one around it has one."""
        if within(self._known, folder) is not None:
            return
        name = free(self._known, folder)
        gone = next((other for other, its in self._known.items() if its == name), None)
        known = {other: its for other, its in self._known.items() if its != name}
        known[str(folder)] = name
        if self._file is not None:  # before any document is known by it
            with replacing(self._file) as temporary:
                temporary.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
            sync(self._file.parent)
        self._known = known
        usual = _end(folder, 1)
        if gone is not None:
            log.warning(
                "%s is gone: %s is known as %r in its place, and replaces its files of the same "
                "names",
                gone,
                folder,
                name,
            )
        elif name != usual:
            log.warning("%s is known as %r: %r is another folder", folder, name, usual)

    def of(self, file: Path) -> str:
        """What a file (absolute) in a folder that was added is known by."""
        known = within(self._known, file)
        assert known is not None, f"{file} lies in no folder that was added"
        return known


def within(names: Mapping[str, str], path: Path) -> str | None:
    """What a path is known by, from the nearest folder around it that has a name; None without.

    Args:
        names: by folders (absolute).
    """
    for around in (path, *path.parents):
        if name := names.get(str(around)):
            return Path(name, path.relative_to(around)).as_posix()
    return None


def free(names: Mapping[str, str], folder: Path) -> str:
    """The shortest end of a folder's path that no file of another folder is known by.

    Args:
        names: by folders (absolute); those of folders that are gone are free again.
    """
    folders = {name: other for other, name in names.items()}
    for name in _candidates(folder):
        if name in folders and _is_gone(folders[name]):
            return name
        if not any(_overlap(name, other) for other in folders):
            return name
    raise AssertionError("numbers have no end")


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
    except OSError:  # it may be there, for others
        return False


def _read(file: Path | None) -> dict[str, str]:
    if file is None or not file.exists():
        return {}
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        return {str(folder): str(name) for folder, name in said.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(
            f"{file} cannot be read ({error}); put it back, or delete it: then folders get their "
            "names anew when they are added"
        ) from None
