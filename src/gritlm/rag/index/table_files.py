"""Checksums of a local table's files, and copies of its small files.

LanceDB never changes a file that it wrote, and keeps no checksums. A file next to the table keeps
them and is written after each change. It also holds copies of the newest manifest, which names all
other files of a version, and of the lists of deleted rows: no row can be read without them.
"""

from __future__ import annotations

import json
import logging
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from xxhash import xxh3_64, xxh3_128_hexdigest

from gritlm.atomic import replacing

log = logging.getLogger(__name__)

RECORD = "passages.checks"  # file in the folder of the index
TABLE = "passages.lance"
DATA = "data"
_MANIFESTS = "_versions"
_DELETIONS = "_deletions"
_KINDS = (DATA, _DELETIONS, "_indices")
_COPIED = 1 << 20  # bytes of the largest list of deleted rows to copy
_AT_OPENING = 256 * 2**20  # bytes verified when a table is opened
_CHUNK = 16 * 2**20


@dataclass(frozen=True)
class Files:
    """Files of a table after its last change.

    Attributes:
        sums: bytes and checksum of each file, by path in the table.
        manifest: name of the newest manifest.
        copies: base64 contents of the copied files, by path in the table.
    """

    sums: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    manifest: str = ""
    copies: Mapping[str, str] = field(default_factory=dict)


def folder_of(uri: str) -> Path | None:
    """Return the folder of an index; None if the index is at a remote address."""
    return None if "://" in uri else Path(uri)


def record(uri: str) -> None:
    """Record the checksums of new files; a failure is logged, and the next call retries."""
    folder = folder_of(uri)
    if folder is None or not (folder / TABLE).is_dir():
        return
    try:
        before = _read(folder)
        now = _files(folder / TABLE, before)
        if now != before:
            _write(folder, now)
    except OSError as error:
        log.warning("%s: the checksums of its files cannot be recorded: %s", uri, error)


def damaged(uri: str, *, most_bytes: int | None = None) -> list[str]:
    """Return the paths, relative to the table, of damaged files.

    Args:
        uri: folder or address of the index.
        most_bytes: most bytes to read, small files first; None reads all files.
    """
    folder = folder_of(uri)
    if folder is None:
        return []
    known = _read(folder)
    found = [f"{_MANIFESTS}/{known.manifest}"] if _lost_manifest(folder, known) else []
    left = most_bytes
    for name, (nbytes, digest) in sorted(known.sums.items(), key=lambda item: item[1][0]):
        if left is not None:
            left -= nbytes
            if left < 0:
                break
        if _differs(folder / TABLE / name, nbytes, digest):
            found.append(name)
    return found


def damaged_at_opening(uri: str) -> list[str]:
    """Return the damaged files among the smallest 256 MiB of files."""
    return damaged(uri, most_bytes=_AT_OPENING)


def is_data(name: str) -> bool:
    """Return whether a file holds rows, which have checksums of their own."""
    return name.startswith(f"{DATA}/")


def restore(uri: str) -> None:
    """Restore lost or damaged files from their copies."""
    folder = folder_of(uri)
    known = Files() if folder is None else _read(folder)
    if folder is None or _is_newer(folder, known):
        return
    for name, copy in known.copies.items():
        target = folder / TABLE / name
        if _content(target) != b64decode(copy):
            with replacing(target) as temporary:
                temporary.write_bytes(b64decode(copy))


def present(uri: str) -> set[Path]:
    """Return the paths of all files of a table."""
    folder = folder_of(uri)
    return set() if folder is None else set(_paths(folder / TABLE))


def set_aside(uri: str) -> Path | None:
    """Rename an unreadable table and return its new folder; None if there is no table."""
    folder = folder_of(uri)
    if folder is None or not (folder / TABLE).exists():
        return None
    number = 1
    while (target := folder / f"passages.damaged-{number}").exists():
        number += 1
    (folder / TABLE).rename(target)
    (folder / RECORD).unlink(missing_ok=True)
    return target


def _files(table: Path, before: Files) -> Files:
    sums = {}
    for path in _paths(table):
        name = str(path.relative_to(table))
        if name.startswith(_KINDS):
            sums[name] = before.sums.get(name) or _sum(path)
    newest = _newest(table) or ""
    copied = [
        name
        for name, (nbytes, _) in sums.items()
        if name.startswith(_DELETIONS) and nbytes <= _COPIED
    ]
    if newest:
        copied.append(f"{_MANIFESTS}/{newest}")
    copies = {name: before.copies.get(name) or _copy(table / name) for name in copied}
    return Files(sums, newest, copies)


def _copy(path: Path) -> str:
    return b64encode(path.read_bytes()).decode()


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _newest(table: Path) -> str | None:
    """Return the name of the newest manifest: numbers in the names decrease over time."""
    return min((path.name for path in (table / _MANIFESTS).glob("*.manifest")), default=None)


def _is_newer(folder: Path, known: Files) -> bool:
    """Return whether the table has changed since its checksums were recorded."""
    newest = _newest(folder / TABLE)
    return newest is not None and newest < known.manifest


def _paths(table: Path) -> Iterator[Path]:
    return (path for path in table.rglob("*") if path.is_file())


def _lost_manifest(folder: Path, known: Files) -> bool:
    """Return whether the recorded manifest is damaged or missing, with no newer one."""
    if not known.manifest or _is_newer(folder, known):
        return False
    name = f"{_MANIFESTS}/{known.manifest}"
    return _content(folder / TABLE / name) != b64decode(known.copies[name])


def _differs(path: Path, nbytes: int, digest: str) -> bool:
    """Return whether an existing file differs from the file written."""
    try:
        return path.stat().st_size != nbytes or _sum(path)[1] != digest
    except FileNotFoundError:  # part of an old version, removed since
        return False


def _sum(path: Path) -> tuple[int, str]:
    digest = xxh3_64()
    nbytes = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            nbytes += len(chunk)
    return nbytes, digest.hexdigest()


def _read(folder: Path) -> Files:
    """Return the recorded checksums; empty if the record is missing or damaged."""
    try:
        content = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        files: dict[str, Any] = content["files"]
        if content["check"] != _seal(files):
            raise ValueError("its checksum does not match")
        sums = {name: (nbytes, digest) for name, (nbytes, digest) in files["sums"].items()}
        return Files(sums, files["manifest"], files["copies"])
    except FileNotFoundError:
        return Files()
    except (OSError, ValueError, TypeError, KeyError) as error:
        log.warning("%s cannot be read (%s); it will be written again", folder / RECORD, error)
        return Files()


def _write(folder: Path, files: Files) -> None:
    content = asdict(files)
    with replacing(folder / RECORD) as temporary:
        text = json.dumps({"files": content, "check": _seal(content)})
        temporary.write_text(text, encoding="utf-8")


def _seal(files: Mapping[str, Any]) -> str:
    return xxh3_128_hexdigest(json.dumps(files, sort_keys=True).encode())
