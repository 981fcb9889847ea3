"""Readers of records: files, folders, folders saved by ``datasets``, datasets of the hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import shorten
from typing import Any, Protocol

from gritlm.errors import InputError, did_you_mean
from gritlm.train.config import SourceConfig
from gritlm.train.data import tables
from gritlm.train.data.json_files import JsonFile, json_file, zipped

_LINES = (".jsonl", ".ndjson")
_ZIPPED = tuple(f"{ending}.gz" for ending in _LINES)
_TABLES = (".parquet", ".arrow")
_ENDINGS = (*_LINES, *_ZIPPED, ".json", *_TABLES)
_SAVED = ("dataset_dict.json", "state.json")  # folders saved by datasets have one of these files
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


class RecordReader(Protocol):
    """Records of one file or dataset, by index."""

    def __len__(self) -> int: ...

    def record(self, index: int) -> dict[str, Any]:
        """Return a record; raise InputError with its place if it cannot be read."""

    def place(self, index: int) -> str:
        """Return ``file:line``, or the number of the record from 1 in files without lines."""


def find(source: SourceConfig) -> Iterator[RecordReader]:
    """Yield the files or the dataset of a source, opened one by one.

    An existing path takes precedence over an id of the hub. The data files of a folder are sorted
    by name; a folder saved by ``datasets`` is one dataset. Compressed files and JSON lists are
    unpacked into an anonymous temporary file.

    Raises:
        InputError: the path does not exist or cannot be read.
        MissingExtraError: ``datasets`` is needed and not installed.
    """
    path = Path(source.path).expanduser()
    if path.is_file():
        yield _file(path)
    elif any((path / mark).is_file() for mark in _SAVED):
        yield tables.from_folder(path, source.split)
    elif path.is_dir():
        files = sorted(each for each in path.iterdir() if _is_data(each))
        if not files:
            raise InputError(f"the folder {path} has no data files; expected {_expected()}")
        yield from map(_file, files)
    elif _HUB_ID.fullmatch(source.path) and not source.path.lower().endswith(_ENDINGS):
        here = path.parent != Path() and path.parent.is_dir()
        yield tables.from_hub(source.path, source.split, near=_near(path) if here else "")
    else:
        raise InputError(f"{path} does not exist{_near(path)}")


def _file(path: Path) -> RecordReader:
    name = path.name.lower()
    try:
        if name.endswith(_TABLES):
            return tables.from_file(path)
        if name.endswith(_LINES):
            return JsonFile(path)
        if name.endswith(_ZIPPED):
            return zipped(path)
        if name.endswith(".json"):
            return json_file(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    raise InputError(f"{path} has an ending that is not known; expected {_expected()}")


def _is_data(path: Path) -> bool:
    hidden = path.name.startswith((".", "_"))
    return path.name.lower().endswith(_ENDINGS) and not hidden and path.is_file()


def _expected() -> str:
    return f"{', '.join(_ENDINGS[:-1])} or {_ENDINGS[-1]}"


def _near(path: Path) -> str:
    if not path.parent.is_dir():
        return f"; there is no folder {path.parent} either"
    known = [each.name for each in path.parent.iterdir() if each.is_dir() or _is_data(each)]
    return shorten(did_you_mean(path.name, known), 300, placeholder=" ...") if known else ""
