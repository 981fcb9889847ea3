"""The key file of a server: API keys with their names, stores and rights, read again when changed.

No message about it has a part of a key, nor a name of a field, which may be a key in its place.
"""

from __future__ import annotations

import json
import logging
import os
import re
import stat
import tomllib
from collections.abc import Collection, Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from gritlm.errors import InputError
from gritlm.serve.access import RIGHTS, Access

log = logging.getLogger(__name__)

FIELDS = ("name", "key", "sha256", "stores", "rights")
ALL_STORES = "*"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MOST_BYTES = 2**22

Key = tuple[bytes, Access]  # SHA-256 of a key, and its rights


def digest(key: str) -> bytes:
    """Return the SHA-256 of a key."""
    return sha256(key.encode("utf-8", "surrogateescape")).digest()


def require_sendable(key: str, name: str) -> None:
    """Check that a header can hold an API key.

    Args:
        key: the key.
        name: name of the key in messages.

    Raises:
        InputError: for a key that it cannot hold; the message does not show the key.
    """
    if not key.strip():
        raise InputError(f"{name} is empty; set it to a text, or leave it out")
    if not key.isascii() or not key.isprintable():
        raise InputError(
            f"{name} has a character that an HTTP header cannot hold; use ASCII letters, digits "
            "and punctuation"
        )
    if key != key.strip():
        raise InputError(f"{name} begins or ends with a space, which HTTP headers drop; remove it")


def read_keys(path: Path, stores: Collection[str]) -> list[Key]:
    """Return the keys of a file in TOML, or in JSON lines.

    Args:
        path: the file; it is TOML if its name ends with ``.toml``.
        stores: names of the stores of the server.

    Raises:
        InputError: for a file that cannot be read, or a wrong entry.
    """
    try:
        text = path.read_bytes()[: _MOST_BYTES + 1].decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise InputError(f"{path}: the key file cannot be read ({reason})") from None
    if len(text) > _MOST_BYTES:
        raise InputError(f"{path}: the key file has more than {_MOST_BYTES:,} bytes; use less")
    entries = _toml(path, text) if path.suffix == ".toml" else _json_lines(path, text)
    keys = [_key(f"{path}: key {n}", each, stores) for n, each in enumerate(entries, 1)]
    if not keys:
        raise InputError(f"{path}: the key file has no keys; expected at least one")
    _require_distinct(path, keys)
    return keys


def warn_if_readable(path: Path) -> None:
    """Log a warning if other users of the machine can read a key file."""
    if os.name == "posix" and path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        log.warning("other users can read the key file %s; run: chmod 600 %s", path, path)


def _toml(path: Path, text: str) -> Sequence[Any]:
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"\(at (.*)\)$", str(error))
        where = f" at {place[1]}" if place else ""
        raise InputError(f"{path}: the key file is no valid TOML{where}") from None
    entries = content.get("keys")
    if set(content) != {"keys"} or not isinstance(entries, list):
        raise InputError(f"{path}: expected one table [[keys]] for each key, and nothing else")
    return entries


def _json_lines(path: Path, text: str) -> Sequence[Any]:
    entries = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                entries.append(json.loads(line))
            except (ValueError, RecursionError):
                raise InputError(f"{path}: line {number} is no valid JSON") from None
    return entries


def _key(place: str, entry: Any, stores: Collection[str]) -> Key:
    """Return the key of an entry.

    Args:
        place: file and number of the entry, for messages.
        entry: the parsed entry.
        stores: names of the stores of the server.
    """
    if not isinstance(entry, dict) or not set(entry) <= set(FIELDS):
        raise InputError(f"{place} is not a table of known fields; expected {', '.join(FIELDS)}")
    name = entry.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InputError(
            f"{place}: 'name' is missing or wrong; expected 1 to 64 letters, digits and ._-"
        )
    place = f"{place} ({name})"
    seen = _names(place, entry, "stores", default=())
    if unknown := sorted(seen - {*stores, ALL_STORES}):
        raise InputError(
            f"{place}: there is no store {unknown[0][:64]!r}; expected "
            f"{', '.join([*stores, repr(ALL_STORES)])}"
        )
    rights = _names(place, entry, "rights", default=None)
    if unknown := sorted(rights - set(RIGHTS)):
        raise InputError(
            f"{place}: unknown right {unknown[0][:64]!r}; expected {', '.join(RIGHTS)}"
        )
    hashed = _digest_of(place, entry)
    bound = None if ALL_STORES in seen else seen
    return hashed, Access(name, rights, bound, owner=hashed.hex())


def _names(
    place: str, entry: dict[str, Any], field: str, *, default: Iterable[str] | None
) -> frozenset[str]:
    """Return a list of texts; without a default the field is required."""
    value = entry.get(field, default)
    if isinstance(value, list | tuple) and all(isinstance(each, str) for each in value):
        return frozenset(value)
    raise InputError(f"{place}: '{field}' is missing or wrong; expected a list of texts")


def _digest_of(place: str, entry: dict[str, Any]) -> bytes:
    key = entry.get("key")
    hashed = entry.get("sha256")
    if (key is None) == (hashed is None):
        raise InputError(f"{place}: expected 'key', or 'sha256' with the hash of the key")
    if key is not None:
        if not isinstance(key, str):
            raise InputError(f"{place}: 'key' is no text; put it in quotes")
        require_sendable(key, f"{place}: 'key'")
        return digest(key)
    if not isinstance(hashed, str) or not _DIGEST.fullmatch(hashed):
        raise InputError(f"{place}: 'sha256' is wrong; expected 64 hexadecimal digits, lower case")
    return bytes.fromhex(hashed)


def _require_distinct(path: Path, keys: Sequence[Key]) -> None:
    names: set[str] = set()
    digests: dict[bytes, str] = {}
    for hashed, access in keys:
        if access.name in names:
            raise InputError(f"{path}: two keys have the name {access.name!r}; rename one")
        if hashed in digests:
            raise InputError(
                f"{path}: {digests[hashed]!r} and {access.name!r} are the same key; remove one"
            )
        names.add(access.name)
        digests[hashed] = access.name


class KeyRing:
    """The keys of a server: those of its options, with all rights, and those of its key file.

    Args:
        api_keys: keys with all rights.
        path: the key file; None for none.
        stores: names of the stores of the server.

    Attributes:
        keys: hash and rights of each key; replaced as a whole when the file has changed.

    Raises:
        InputError: for a key file that cannot be read, or has a wrong entry.
    """

    def __init__(self, api_keys: Sequence[str], path: Path | None, stores: Collection[str]) -> None:
        hashes = map(digest, api_keys)
        self._own: list[Key] = [(each, Access(owner=each.hex())) for each in hashes]
        self._path = path
        self._stores = tuple(stores)
        self._state: object = None
        self.keys = self._own
        if path is not None:
            self._state = _state(path)
            self.keys = [*self._own, *self._read(path)]
            warn_if_readable(path)

    def refresh(self) -> None:
        """Read the key file again if it has changed; a wrong one is reported and changes nothing.

        Running requests keep the rights that they began with.
        """
        if self._path is None or (state := _state(self._path)) == self._state:
            return
        self._state = state
        try:
            self.keys = [*self._own, *self._read(self._path)]
        except InputError as error:
            log.error("the keys stay as they were: %s", error)
            return
        log.info("%s was read again: %d keys", self._path, len(self.keys) - len(self._own))
        warn_if_readable(self._path)

    def _read(self, path: Path) -> list[Key]:
        keys = read_keys(path, self._stores)
        given = {hashed for hashed, _ in self._own}
        for hashed, access in keys:
            if hashed in given:
                raise InputError(
                    f"{path}: {access.name!r} is also a key of --api-key, which has all rights; "
                    "remove one"
                )
        return keys


def _state(path: Path) -> object:
    """Return a value that changes with the content of a file; None without one."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
