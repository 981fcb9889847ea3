"""Data sets -> rows that are read when asked for.

Only where a row stands is kept in memory. All rows are parsed once at loading, so a row that
cannot be used is found before training starts.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from hashlib import blake2b
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from gritlm.errors import InputError
from gritlm.train import records
from gritlm.train.config import Source
from gritlm.train.formats import normalised, parse
from gritlm.train.records import Records
from gritlm.train.rows import ChatRow, EmbeddingRow, Kind, RagRow, Row, ScoredRow


class Rows:
    """The rows of a source, parsed when asked for.

    Attributes:
        title: name of the source.
        weight: its share among sources.
        duplicates: rows that were left out because an earlier one is the same.
    """

    def __init__(
        self, source: Source, kind: Kind, parts: Sequence[Records], kept: NDArray[np.intp],
        read: int,
    ) -> None:  # fmt: skip
        """``kept`` are the numbers of the rows that count among the ``read`` ones of all parts."""
        self.title = source.title
        self.weight = float(len(kept) if source.weight is None else source.weight)
        self.duplicates = read - len(kept)
        self._source, self._kind, self._parts, self._kept = source, kind, parts, kept
        self._ends = list(accumulate(len(part) for part in parts))

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> Row:
        part, number = self._find(index)
        record, place = part.record(number), part.place(number)
        return parse(record, self._kind, place=place, source=self._source)

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))

    @property
    def scored(self) -> bool:
        """Whether these are scored pairs; a source has no others beside them."""
        return len(self) > 0 and isinstance(self[0], ScoredRow)

    def place(self, index: int) -> str:
        """``file:line`` of a row."""
        part, number = self._find(index)
        return part.place(number)

    def _find(self, index: int) -> tuple[Records, int]:
        number = int(self._kept[index])
        which = bisect_right(self._ends, number)
        return self._parts[which], number - (self._ends[which - 1] if which else 0)


def load(
    source: Source, kind: Kind, *, deduplicate: bool = True,
    check: Callable[[Row], None] | None = None,
) -> Rows:  # fmt: skip
    """Find a source, as :func:`gritlm.train.records.find` does, and read it once.

    Args:
        deduplicate: leave rows out that an earlier one of this source equals, white space aside.
        check: raises InputError for a row that cannot be used; its place is added.

    Raises:
        InputError: naming file and line that cannot be used, or the path that leads nowhere.
        MissingExtraError: when ``datasets`` is needed and not installed.
    """
    parts: list[Records] = []
    digests = array("Q")
    first: Row | None = None
    for part in records.find(source):
        parts.append(part)
        room = len(part) if source.cap is None else source.cap - len(digests)
        for index in range(min(room, len(part))):
            row = parse(part.record(index), kind, place=part.place(index), source=source)
            first = first or row
            _checked(row, partial(require_alike, first), part.place(index))
            if check is not None:
                _checked(row, check, part.place(index))
            digests.append(digest(row))
        if len(digests) == source.cap:
            break
    kept = np.arange(len(digests))
    if deduplicate:
        kept = np.sort(np.unique(np.frombuffer(digests, np.uint64), return_index=True)[1])
    return Rows(source, kind, parts, kept, len(digests))


def require_alike(first: Row, row: Row) -> None:
    """Raises InputError when one of two rows of a source is a scored pair and the other is not."""
    if isinstance(row, ScoredRow) != isinstance(first, ScoredRow):
        has, had = ("a", "none") if isinstance(row, ScoredRow) else ("no", "one")
        raise InputError(
            f"the row has {has} score, the first one of its source has {had}; put scored pairs "
            "into a source of their own"
        )


def _checked(row: Row, check: Callable[[Row], None], place: str) -> None:
    try:
        check(row)
    except InputError as error:
        raise InputError(f"{place}: {error}") from None


def digest(row: Row) -> int:
    """64 bits of what a row says: ten million different rows all differ in 999,997 of a million."""
    content = "\x1e".join(normalised(text) for text in _texts(row))  # normalised: holds no \x1e
    return int.from_bytes(blake2b(content.encode(), digest_size=8).digest(), "big")


def _texts(row: Row) -> Iterator[str]:
    if isinstance(row, EmbeddingRow):
        passages = (row.query, *row.positives, *row.negatives)
        yield str(len(row.positives))
        yield from (text for each in passages for text in (each.instruction, each.text))
    elif isinstance(row, ScoredRow):
        yield repr(row.score)
        pair = (row.first, row.second)
        yield from (text for each in pair for text in (each.instruction, each.text))
    elif isinstance(row, ChatRow):
        yield from (text for each in row.messages for text in (each["role"], each["content"]))
    elif isinstance(row, RagRow):
        yield from (row.question, row.answer, *row.documents)
