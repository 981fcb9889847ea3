"""What can be wrong with a store: errors for callers, and damage as a value."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path

from gritlm.errors import InputError

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class StoreFullError(InputError):
    """The disk took no more; what was acknowledged before is whole and readable."""


class StoreLockedError(InputError):
    """Another process writes to this store; the message says which."""


class IndexDamagedError(InputError):
    """The index cannot be trusted; it can be made anew from the arenas."""


class SegmentGoneError(Exception):
    """A segment is not there (any more): who reads asks the index again."""


class DamagedRecordError(Exception):
    """A record that is not what was written; the message says what does not fit."""


@dataclass(frozen=True)
class Damage:
    """A place that cannot be read as it was written.

    Attributes:
        key: of the record; empty where it is not known.
        segment: number of the arena file, -1 for the index.
        offset: byte at which the record begins.
        reason: what does not fit.
    """

    key: bytes
    segment: int
    offset: int
    reason: str

    def __str__(self) -> str:
        place = f"segment {self.segment}, byte {self.offset}" if self.segment >= 0 else "index"
        return f"{place}: {self.reason}"


def is_full(error: BaseException) -> bool:
    """Whether an error of the disk (or of LMDB, which keeps the same number) says: no space."""
    number = getattr(error, "errno", None) or getattr(error, "code", None)
    return number in _NO_SPACE


def full(folder: Path, error: object) -> StoreFullError:
    return StoreFullError(
        f"{folder}: the disk is full ({error}); what was stored before stays readable. Free some "
        "space, or open the store with a smaller disk_bytes"
    )


def damaged_index(folder: Path, reason: object) -> IndexDamagedError:
    return IndexDamagedError(
        f"{folder}: the index of this store is damaged ({reason}); the payloads are not lost: "
        f"run `gritlm store rebuild {folder}`"
    )
