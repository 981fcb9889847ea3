"""Datasets: lazy access to the examples of a source, checked once at loading.

Only the positions of rows are in memory. All rows are parsed once at loading, so unusable rows are
found before training starts.
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
from gritlm.train.config import SourceConfig
from gritlm.train.data import readers
from gritlm.train.data.examples import (
    ChatExample,
    EmbeddingExample,
    Kind,
    RagExample,
    Row,
    ScoredExample,
    content_identity,
)
from gritlm.train.data.formats import normalised, parse
from gritlm.train.data.readers import RecordReader
from gritlm.train.data.skipped import SkippedRows


class Dataset:
    """Examples of a source, parsed on access.

    Attributes:
        title: name of the source.
        weight: sampling weight among the sources of a stream.
        duplicates: number of rows left out because they equal an earlier row.
        skipped: unusable rows that were skipped.
    """

    def __init__(
        self,
        source: SourceConfig,
        kind: Kind,
        parts: Sequence[RecordReader],
        kept: NDArray[np.intp],
        *,
        duplicates: int,
        skipped: SkippedRows,
    ) -> None:
        """Wrap the rows of some readers.

        Args:
            source: settings of the source.
            kind: stream of the rows.
            parts: readers of its files.
            kept: indices, over all readers, of the rows to use.
            duplicates: number of rows left out because they equal an earlier row.
            skipped: unusable rows that were skipped.
        """
        self.title = source.title
        self.weight = float(len(kept) if source.weight is None else source.weight)
        self.duplicates = duplicates
        self.skipped = skipped
        self._source = source
        self._kind = kind
        self._parts = parts
        self._kept = kept
        self._ends = list(accumulate(len(part) for part in parts))

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> Row:
        part, number = self._find(index)
        record = part.record(number)
        place = part.place(number)
        return parse(record, self._kind, place=place, source=self._source)

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))

    @property
    def scored(self) -> bool:
        """Whether the rows are scored pairs; a source has either these or other rows."""
        return len(self) > 0 and isinstance(self[0], ScoredExample)

    def place(self, index: int) -> str:
        """Return ``file:line`` of a row."""
        part, number = self._find(index)
        return part.place(number)

    def _find(self, index: int) -> tuple[RecordReader, int]:
        number = int(self._kept[index])
        which = bisect_right(self._ends, number)
        return self._parts[which], number - (self._ends[which - 1] if which else 0)


def load(
    source: SourceConfig,
    kind: Kind,
    *,
    deduplicate: bool = True,
    skip_bad: bool = False,
    check: Callable[[Row], None] | None = None,
) -> Dataset:
    """Open a source (:func:`gritlm.train.data.readers.find`) and read all of its rows once.

    Args:
        source: settings of the source.
        kind: stream of the rows.
        deduplicate: leave out rows that equal an earlier row of the source, white space aside.
        skip_bad: skip and count unusable rows instead of raising an error.
        check: raises InputError for an unusable row; its place is added to the message.

    Raises:
        InputError: a row is unusable, or the path does not exist; the message has file and line.
        MissingExtraError: ``datasets`` is needed and not installed.
    """
    first_pass = _FirstPass(source, kind, check, skip_bad=skip_bad)
    for part in readers.find(source):
        first_pass.read(part)
        if first_pass.is_full:
            break
    return first_pass.rows(deduplicate=deduplicate)


class _FirstPass:
    """First pass over a source, which collects the usable rows."""

    def __init__(
        self,
        source: SourceConfig,
        kind: Kind,
        check: Callable[[Row], None] | None,
        *,
        skip_bad: bool,
    ) -> None:
        self._source = source
        self._kind = kind
        self._check = check
        self._skip_bad = skip_bad
        self._parts: list[RecordReader] = []
        self._digests = array("Q")
        self._numbers = array("Q")  # indices of usable rows
        self._before = 0  # rows of earlier parts
        self._first: Row | None = None
        self._skipped = SkippedRows()

    @property
    def is_full(self) -> bool:
        return len(self._digests) == self._source.cap

    def read(self, part: RecordReader) -> None:
        """Read the rows of a reader, up to the cap."""
        self._parts.append(part)
        for index in range(len(part)):
            if self.is_full:
                break
            place = part.place(index)
            try:
                row = self._read_row(part, index, place)
            except InputError as error:
                if not self._skip_bad:
                    raise
                self._skipped.add(place, str(error))
                continue
            self._digests.append(digest(row))
            self._numbers.append(self._before + index)
        self._before += len(part)

    def _read_row(self, part: RecordReader, index: int, place: str) -> Row:
        row = parse(part.record(index), self._kind, place=place, source=self._source)
        _check_at(row, partial(require_alike, self._first or row), place)
        if self._check is not None:
            _check_at(row, self._check, place)
        self._first = self._first or row
        return row

    def rows(self, *, deduplicate: bool) -> Dataset:
        """Return the dataset of the usable rows.

        Raises:
            InputError: all rows were skipped.
        """
        if self._skipped.count and not self._numbers:
            place, reason = self._skipped.first[0]
            raise InputError(
                f"{self._source.path}: none of its {self._skipped.count} rows can be used; the "
                f"first is {place}: {reason}"
            )
        kept = np.frombuffer(self._numbers, np.uint64).astype(np.intp)
        if deduplicate:
            content = np.frombuffer(self._digests, np.uint64)
            kept = kept[np.sort(np.unique(content, return_index=True)[1])]
        return Dataset(
            self._source,
            self._kind,
            self._parts,
            kept,
            duplicates=len(self._numbers) - len(kept),
            skipped=self._skipped,
        )


def require_alike(first: Row, row: Row) -> None:
    """Raise an InputError if only one of two rows of a source is a scored pair."""
    if isinstance(row, ScoredExample) != isinstance(first, ScoredExample):
        has, had = ("a", "none") if isinstance(row, ScoredExample) else ("no", "one")
        raise InputError(
            f"the row has {has} score, the first one of its source has {had}; put scored pairs "
            "into a source of their own"
        )


def _check_at(row: Row, check: Callable[[Row], None], place: str) -> None:
    try:
        check(row)
    except InputError as error:
        raise InputError(f"{place}: {error}") from None


def digest(row: Row) -> int:
    """Return a 64-bit hash of a row; ten million rows collide with probability 3e-6."""
    content = "\x1e".join(normalised(text) for text in _texts(row))  # normalised: holds no \x1e
    return int.from_bytes(blake2b(content.encode(), digest_size=8).digest(), "big")


def _texts(row: Row) -> Iterator[str]:
    if isinstance(row, EmbeddingExample):
        passages = (row.query, *row.positives, *row.negatives)
        yield str(len(row.positives))
        yield from (text for each in passages for text in (each.instruction, each.identity))
    elif isinstance(row, ScoredExample):
        yield repr(row.score)
        pair = (row.first, row.second)
        yield from (text for each in pair for text in (each.instruction, each.identity))
    elif isinstance(row, ChatExample):
        yield from map(str, row.context)
        for each in row.messages:
            yield from (each["role"], content_identity(each["content"]))
    elif isinstance(row, RagExample):
        yield from (row.question, row.answer, *row.documents)
