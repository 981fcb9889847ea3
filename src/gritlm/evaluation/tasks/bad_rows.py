"""Unusable rows of a task, which are either left out and counted or raise an error."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from gritlm.errors import InputError, one_line

LISTED = 10  # reasons that a result keeps; the count is exact
MOST = 0.5  # share of a file's rows that may be left out

T = TypeVar("T")
Row = TypeVar("Row")


class BadRowError(InputError):
    """Error: a row cannot be used, and rows may not be left out."""


class BadRows:
    """Unusable rows of one task.

    Args:
        skip: whether they are left out; if False, the first one raises.

    Attributes:
        count: number of rows left out.
        reasons: reasons for the first of them, with ``file:line``.
    """

    def __init__(self, *, skip: bool = False) -> None:
        self.skip = skip
        self.count = 0
        self.reasons: tuple[str, ...] = ()

    def add(self, error: InputError) -> None:
        """Count a row that is left out.

        Raises:
            BadRowError: with the message of the error, if rows may not be left out.
        """
        if not self.skip:
            raise BadRowError(str(error)) from error
        self.count += 1
        if len(self.reasons) < LISTED:
            self.reasons += (one_line(error, limit=300),)

    def keep_usable(
        self,
        items: Iterable[T],
        read: Callable[[T], Row],
        *,
        path: Path,
        limit: int | None = None,
    ) -> list[Row]:
        """Return the rows that ``read`` accepts, and leave out the others.

        Args:
            items: raw rows of a file.
            read: function that parses a row, and raises ``InputError`` for an unusable one.
            path: file of the rows, for messages.
            limit: number of usable rows after which to stop; None for no limit.

        Raises:
            BadRowError: for the first unusable row, if rows may not be left out.
            InputError: if more than :data:`MOST` of the rows would be left out.
        """
        kept: list[Row] = []
        before = self.count
        for item in items:
            if limit is not None and len(kept) == limit:
                break
            try:
                kept.append(read(item))
            except InputError as error:
                self.add(error)
        self._require_most(path, len(kept), self.count - before)
        return kept

    def _require_most(self, path: Path, kept: int, left_out: int) -> None:
        if left_out > MOST * (kept + left_out):
            raise InputError(
                f"{path}: {left_out} of {kept + left_out} rows cannot be used, more than "
                f"{MOST:.0%}, e.g. {'; '.join(self.reasons[-3:])}"
            )
