"""Random access to JSON records: JSON lines, gzip-compressed lines, JSON lists."""

from __future__ import annotations

import gzip
import json
import os
import tempfile
import weakref
import zlib
from array import array
from codecs import BOM_UTF8
from collections.abc import Callable
from pathlib import Path
from shutil import copyfileobj
from typing import IO, Any

from gritlm import jsonl
from gritlm.errors import InputError


class JsonFile:
    """Reader of JSON lines; it keeps byte offsets only. Blank lines are ignored."""

    def __init__(self, path: Path, unpack: Callable[[Path, IO[bytes]], None] | None = None) -> None:
        """Index the lines of a file.

        Args:
            path: the file.
            unpack: writes the content of the file as JSON lines to a temporary file; None for a
                file that has JSON lines already.

        Raises:
            InputError: the file is empty or cannot be unpacked.
            OSError: the file cannot be read.
        """
        self._path = path
        self._content: IO[bytes] | None = None
        self._starts = array("Q")
        self._sizes = array("Q")
        self._numbers = array("Q")
        if unpack is None:
            with path.open("rb") as file:
                self._scan(file)
        else:
            self._content = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as its rows
            weakref.finalize(self, self._content.close)
            unpack(path, self._content)
            self._content.seek(0)
            self._scan(self._content)
        if not self._starts:
            raise InputError(f"{path} is empty; expected {jsonl.OBJECT_A_LINE}")

    def __len__(self) -> int:
        return len(self._starts)

    def record(self, index: int) -> dict[str, Any]:
        return jsonl.record(self._line(index), self.place(index))

    def place(self, index: int) -> str:
        return f"{self._path}:{self._numbers[index]}"

    def _scan(self, file: IO[bytes]) -> None:
        for line in jsonl.lines(file):
            self._starts.append(line.start)
            self._sizes.append(len(line.data))
            self._numbers.append(line.number)

    def _line(self, index: int) -> bytes:
        start = self._starts[index]
        size = self._sizes[index]
        if self._content is not None:
            return os.pread(self._content.fileno(), size, start)
        try:
            with self._path.open("rb", buffering=0) as file:
                return os.pread(file.fileno(), size, start)
        except OSError as error:
            raise InputError(f"{self.place(index)} cannot be read: {error.strerror}") from error


def zipped(path: Path) -> JsonFile:
    """Return a reader of gzip-compressed JSON lines, unpacked into an anonymous temporary file."""
    return JsonFile(path, _unzip)


def json_file(path: Path) -> JsonFile:
    """Return a reader of a .json file: one JSON list, or JSON lines."""
    with path.open("rb") as file:
        listed = file.read(1024).removeprefix(BOM_UTF8).lstrip().startswith(b"[")
    return JsonFile(path, _unlist if listed else None)


def _unzip(path: Path, into: IO[bytes]) -> None:
    try:
        with gzip.open(path) as packed:
            copyfileobj(packed, into)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path} is no whole gzip file: {error}") from error


def _unlist(path: Path, into: IO[bytes]) -> None:
    try:
        items = jsonl.items(path.read_bytes().decode("utf-8-sig"))
        into.writelines(json.dumps(item).encode() + b"\n" for item in items)
    except (ValueError, RecursionError) as error:
        raise jsonl.broken_file(str(path), error, expected="a JSON list") from error
