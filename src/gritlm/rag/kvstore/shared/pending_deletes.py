"""Deletes that the shared tier has not carried out yet: a journal in the folder of the store.

It exists since a store was first opened with a shared tier. A key is written before anything is
deleted, and removed when the object is gone. So a delete reaches the shared tier also if that was
out of reach, if the process was killed, or if the store was opened without it.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path

from blake3 import blake3

from gritlm.atomic import replacing
from gritlm.rag.kvstore.record import KEY_BYTES
from gritlm.runtime import file_mode, private_folder

log = logging.getLogger(__name__)

FOLDER = "shared"
_KEY = re.compile(f"[0-9a-f]{{{2 * KEY_BYTES}}}")


class PendingDeletes:
    """Journals of the shared tiers of a store, one for each address.

    The first line of a journal is the address without credentials, each other line a key. A line
    that a crash left incomplete is ignored.

    Args:
        store: folder of the store.
    """

    def __init__(self, store: Path) -> None:
        self._folder = store / FOLDER
        self._paths = sorted(self._folder.glob("*.txt"))
        self._connected: Path | None = None

    def connect(self, url: str) -> None:
        """Begin or continue the journal of an address.

        Args:
            url: address of the shared tier, without credentials.
        """
        path = self._folder / f"{blake3(url.encode()).hexdigest()[:16]}.txt"
        if not path.exists():
            private_folder(self._folder)
            with replacing(path) as new:
                new.write_text(f"{url}\n", encoding="utf-8")
        if path not in self._paths:
            self._paths.append(path)
        self._connected = path

    def add(self, keys: Iterable[bytes]) -> None:
        """Note keys that are deleted from now on, durably."""
        lines = "".join(f"{key.hex()}\n" for key in keys).encode()
        for path in self._paths if lines else ():
            mode = file_mode(path.parent)
            file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, mode)
            try:
                os.write(file, b"\n" + lines)  # behind a line that a crash left incomplete
                os.fsync(file)
            finally:
                os.close(file)

    def keys(self) -> list[bytes]:
        """Return the keys that the connected tier has still to delete."""
        return [] if self._connected is None else _keys(self._connected)

    def remove(self, deleted: Iterable[bytes]) -> None:
        """Note keys that the connected tier has deleted.

        Args:
            deleted: the keys.
        """
        if self._connected is None:
            return
        gone = set(deleted)
        left = [key.hex() for key in _keys(self._connected) if key not in gone]
        content = "".join(f"{line}\n" for line in [_url(self._connected), *left])
        with replacing(self._connected) as new:
            new.write_text(content, encoding="utf-8")

    def warn(self) -> None:
        """Log a warning for each address that still holds deleted blocks."""
        for path in self._paths:
            if left := len(_keys(path)):
                log.warning(
                    "%d deleted blocks are still in the shared storage %s; they are deleted when "
                    "the store is opened with shared_blocks (--shared-blocks) of this address, and "
                    "it can be reached",
                    left,
                    _url(path),
                )


def _url(path: Path) -> str:
    return path.read_text(encoding="utf-8").split("\n", 1)[0]


def _keys(path: Path) -> list[bytes]:
    lines = path.read_text(encoding="utf-8").split("\n")[1:]
    return list(dict.fromkeys(bytes.fromhex(line) for line in lines if _KEY.fullmatch(line)))
