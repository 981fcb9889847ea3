"""Protocol of the databases that hold an index's passages, and the selection of their rows.

LanceDB, Qdrant and PostgreSQL implement it. Shapes: D of a vector.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from gritlm.errors import GritLMError
from gritlm.rag.index.filters import Where
from gritlm.rag.kvstore.errors import StoreFullError

FULL = re.compile(r"no space left|file too large|quota exceeded", re.I)  # in a database's errors
FREE_SPACE = "free some space and try again: the rows stored before are complete"

Row = dict[str, Any]  # columns of a passage with its checksums; the vector as an array (D,)


class IndexFailedError(GritLMError, RuntimeError):
    """Failed read or write of an index: damaged files, no permission, no network."""


class IndexFullError(IndexFailedError, StoreFullError):
    """Disk full while writing an index; everything acknowledged before is complete."""


@dataclass(frozen=True)
class Wanted:
    """Selection of rows: all conditions must hold, and None or empty holds for every row.

    Attributes:
        first: only the first passage of each document.
        documents: ids of documents.
        ids: ids of passages.
        where: filter of a search.
        without: texts to leave out.
    """

    first: bool = False
    documents: Collection[str] | None = None
    ids: Collection[str] | None = None
    where: Where | None = None
    without: Collection[str] = ()


class PassageTable(Protocol):
    """Rows of passages in a database, written by one process and read by any number.

    A change is complete for readers, or not there, also when the process that writes dies. All
    methods may be called by any thread.

    Attributes:
        ranks_words: the database ranks rows by words.
    """

    ranks_words: bool

    def errors(self, where: Where | None = None, /) -> AbstractContextManager[None]:
        """Translate the exceptions of the database inside a block.

        Args:
            where: filter of the search inside the block, reported as the cause of its failure.

        Raises:
            IndexFailedError: if the database fails; IndexFullError if its disk is full.
            InputError: if the filter cannot be used.
        """
        ...

    def check_filter(self, where: Where) -> None:
        """Refuse a filter that the database cannot use, with an InputError."""
        ...

    def version(self) -> int:
        """Return a number that each change increases, a single change by one."""
        ...

    def count(self) -> int:
        """Return the number of rows."""
        ...

    def scan(
        self, wanted: Wanted, columns: Sequence[str], *, rows: int | None = None
    ) -> Iterator[Row]:
        """Yield rows with their checksums in the order of storage, ``rows`` per read."""
        ...

    def nearest(
        self,
        vector_D: np.ndarray,
        limit: int,
        wanted: Wanted,
        columns: Sequence[str],
        *,
        exact: bool,
    ) -> list[Row]:
        """Return the rows nearest to a vector of length 1, ties sorted by id.

        Args:
            vector_D: vector of a question.
            limit: most rows.
            wanted: selection of the rows.
            columns: columns to read.
            exact: compare all vectors instead of the candidates of an approximate index.
        """
        ...

    def worded(self, words: str, limit: int, wanted: Wanted, columns: Sequence[str]) -> list[Row]:
        """Return the rows that fit words best; only called if ``ranks_words``."""
        ...

    def write(self, batch: pa.Table, replaced: Collection[str]) -> None:
        """Add sealed rows and remove the old rows of documents, as one change."""
        ...

    def delete(self, documents: Collection[str]) -> None:
        """Remove the rows of documents, as one change."""
        ...

    def upgrade(self) -> bool:
        """Bring rows of an older version up to date; return whether there were any."""
        ...

    def has_large_metadata(self) -> bool:
        """Return whether rows of an older version have metadata of more than 32 KiB."""
        ...

    def optimise(self, *, exact_below: int) -> None:
        """Merge files and update indices; from ``exact_below`` rows on, that of the vectors."""
        ...

    def close(self) -> None:
        """Release the connection."""
        ...
