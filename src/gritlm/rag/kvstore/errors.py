"""Errors of a key/value store, and a record of damage found in it."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gritlm.errors import InputError

log = logging.getLogger(__name__)

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class StoreFullError(InputError):
    """Disk full; everything acknowledged before stays complete and readable."""


class StoreLockedError(InputError):
    """Store that another process is writing to; the message names the process."""


class OtherModelError(InputError):
    """Store whose blocks or vectors another model made; the message names both models."""


class IndexDamagedError(InputError):
    """Damaged index of a store; it can be rebuilt from the segments."""


class SegmentGoneError(Exception):
    """Missing segment file; the reader looks the record up again."""


class DamagedRecordError(Exception):
    """Record that differs from the bytes written; the message names the mismatch."""


@dataclass(frozen=True)
class Damage:
    """Damaged record of a segment, or damage to the index.

    Attributes:
        key: key of the record; empty if unknown.
        segment: number of the segment file; -1 for the index.
        offset: byte offset of the record in its segment.
        reason: the mismatch, in words.
    """

    key: bytes
    segment: int
    offset: int
    reason: str

    def __str__(self) -> str:
        location = f"segment {self.segment}, byte {self.offset}" if self.segment >= 0 else "index"
        return f"{location}: {self.reason}"


def is_full(error: BaseException) -> bool:
    """Return whether an error of the system or of LMDB means that no space is left."""
    number = getattr(error, "errno", None) or getattr(error, "code", None)
    return number in _NO_SPACE


def full(folder: Path, error: object) -> StoreFullError:
    """Return the error for a full disk."""
    return StoreFullError(
        f"{folder}: the disk is full ({error}); what was stored before stays readable. Free some "
        "space, or open the store with a smaller disk_bytes"
    )


def damaged_index(folder: Path, reason: object) -> IndexDamagedError:
    """Return the error for a damaged index, with the command that rebuilds it."""
    return IndexDamagedError(
        f"{folder}: the index of this store is damaged ({reason}); the payloads are not lost: "
        f"run `gritlm store rebuild {folder}`"
    )


@contextmanager
def skipped_when_full(consequence: str) -> Iterator[None]:
    """Log a full disk instead of failing, for steps that only save space or time."""
    try:
        yield
    except StoreFullError as error:
        log.warning("%s: %s", consequence, error)
