"""Index of passages in a table of a database: vectors and metadata. Shapes: D of a vector.

Every change is one commit of the table, so a process that dies leaves the old state or the new
one. Readers see a commit immediately. Only one process may write: if two added the same new
document at the same time, both copies would be kept.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from gritlm.errors import InputError, did_you_mean
from gritlm.rag.identity import ModelIdentity
from gritlm.rag.index import addresses, filters, passage_rows, schema
from gritlm.rag.index.filters import Where
from gritlm.rag.index.lance_errors import remedy
from gritlm.rag.index.passage_rows import FIELDS, DamagedRow, Watch
from gritlm.rag.index.passage_table import IndexFailedError, PassageTable, Row, Wanted
from gritlm.rag.index.ranking import TableQuery
from gritlm.rag.types import LEFT_OUT, Hit, Passage, Value

log = logging.getLogger(__name__)

EXACT_BELOW = 10_000
COMMITS = 64  # commits after which the rows are spread over too many files
GROWN = 1.1  # required growth in rows too: keeps the cost of merging in proportion
ASKED = 256  # most document ids in a condition; above it all rows are read and filtered
FEW = 16  # rows per batch where each row may have large metadata


@dataclass(frozen=True)
class IndexedDocument:
    """Document in an index.

    Attributes:
        id: id of the document.
        title: title of the document.
        passages: number of its passages.
        metadata: names and values of its metadata.
        content: hash of its content when it was added.
    """

    id: str
    title: str
    passages: int
    metadata: Mapping[str, Value]
    content: str


class Index:
    """Searchable passages of documents: by vector, by words and by metadata.

    Attributes:
        table: rows of the passages in their database.
    """

    def __init__(
        self, table: PassageTable, maker: ModelIdentity | None, *, uri: str, exact_below: int
    ) -> None:
        self.table = table
        self._identity = maker
        self._uri = uri
        self._exact_below = exact_below
        self._watch = Watch(uri, remedy)
        self._contents: tuple[int, dict[str, str]] = (
            -1,
            {},
        )  # version of the table, contents by document id
        self._names: tuple[int, frozenset[str]] = (
            -1,
            frozenset(),
        )  # version of the table, metadata names
        self._commits = 0
        self._settled = len(self)  # number of rows when the files were last merged

    @classmethod
    def open(
        cls,
        uri: str | Path,
        maker: ModelIdentity | None,
        *,
        create: bool = True,
        exact_below: int = EXACT_BELOW,
    ) -> Index:
        """Open the index in a folder or at an address, or create it.

        Args:
            uri: folder of a LanceDB table; or address that LanceDB accepts (``s3://bucket/name``),
                of Qdrant (``qdrant:///folder``, ``qdrant://host:6333/collection``), or of
                PostgreSQL with pgvector (``postgresql://user@host/database?table=name``).
            maker: identity of the model whose vectors are stored; None to inspect an existing
                index without its model, without adding and searching.
            create: create the index if it does not exist.
            exact_below: number of rows below which a search compares all vectors; from there on
                ``optimise`` builds an approximate index.

        Raises:
            InputError: if the index does not exist and is not to be created, was made by another
                model or version, or the address cannot hold an index.
            IndexFailedError: if the index cannot be read.
            MissingExtraError: if the client of the database is not installed.
        """
        uri = str(uri) if "://" in str(uri) else str(Path(uri).expanduser())
        table = addresses.open_table(uri, maker, create=create and maker is not None)
        return cls(table, maker, uri=uri, exact_below=exact_below)

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def damages(self) -> list[DamagedRow]:
        """Damaged rows found so far; they are left out of all results."""
        return list(self._watch.found)

    def __len__(self) -> int:
        """Return the number of passages."""
        with self.table.errors():
            return self.table.count()

    def add(
        self, rows: Sequence[tuple[Passage, np.ndarray]], *, contents: Mapping[str, str]
    ) -> None:
        """Add or replace documents, all in one commit.

        Args:
            rows: all passages of these documents, with their vectors (D,).
            contents: content hashes of the documents, by id. A document without rows is removed.

        Raises:
            InputError: if a document lacks passages, or a vector has the wrong shape or no length.
            IndexFailedError: if the table cannot be written; it is then unchanged.
        """
        batch = schema.to_arrow(rows, contents, self._maker)
        self._upgrade()
        known = self.known()
        old = contents.keys() & known.keys()
        if not rows and not old:
            return
        with self.table.errors():
            self.table.write(batch, old)
            version = self.table.version()
        if version == self._contents[0] + 1:  # no other process has written meanwhile
            left = {name: known[name] for name in known.keys() - old}
            added = {passage.document_id for passage, _ in rows}
            self._contents = (version, left | {name: contents[name] for name in added})
        self._commits += 1
        if self._commits >= COMMITS and len(self) >= GROWN * self._settled:
            self.optimise()

    def delete(self, document_ids: Iterable[str]) -> int:
        """Remove documents; unknown ids are ignored.

        Returns:
            Number of passages removed.

        Raises:
            InputError: if ``document_ids`` is a single text.
            IndexFailedError: if the table cannot be written.
        """
        if isinstance(document_ids, str):
            raise InputError(f"document_ids={document_ids!r} is one text; expected a list of ids")
        self._upgrade()
        known = self.known()
        removed = set(document_ids) & known.keys()
        if not removed:
            return 0
        rows = len(self)
        try:
            with self.table.errors():
                self.table.delete(removed)
        except IndexFailedError:
            if removed & self.known().keys():
                raise
            log.warning("%s: the deletion succeeded, but an error followed", self._uri)
        with self.table.errors():
            version = self.table.version()
        if version == self._contents[0] + 1:  # no other process wrote meanwhile
            self._contents = (version, {name: known[name] for name in known.keys() - removed})
        self._commits += 1
        return rows - len(self)

    def known(self) -> dict[str, str]:
        """Return the content hash of each document, by id."""
        with self.table.errors():
            version = self.table.version()
            if self._contents[0] != version:
                rows = self._scan(Wanted(first=True), ())
                self._contents = (version, {row["document_id"]: row["content"] for row in rows})
        return dict(self._contents[1])

    def documents(
        self, ids: Collection[str] | None = None, *, whole: bool = True
    ) -> list[IndexedDocument]:
        """Return documents, sorted by id.

        Args:
            ids: ids of the documents; None for all.
            whole: read metadata of more than 32 KiB too; otherwise it is ``LEFT_OUT``.
        """
        if ids is not None and not ids:
            return []
        wanted = Wanted(first=True, documents=ids)
        metadata_later = not whole and self._has_large_metadata
        with self.table.errors():
            rows = list(self._scan(wanted, () if metadata_later else ("metadata",)))
            small = self._small_metadata([row["id"] for row in rows]) if metadata_later else {}
            found = [
                IndexedDocument(
                    id=row["document_id"],
                    title=row["title"],
                    passages=row["passages"],
                    metadata=small.get(row["id"], LEFT_OUT)
                    if metadata_later
                    else passage_rows.own_metadata(row),
                    content=row["content"],
                )
                for row in rows
            ]
        return sorted(found, key=lambda document: document.id)

    def passages(
        self, document_ids: str | Collection[str] | None = None, *, metadata: bool = True
    ) -> Iterator[Passage]:
        """Yield passages: of one document in order, of several or all in storage order.

        Args:
            document_ids: id of a document, several ids, or None for all.
            metadata: read the metadata too; otherwise it is ``LEFT_OUT``.
        """
        if isinstance(document_ids, str):
            found = self.passages([document_ids], metadata=metadata)
            yield from sorted(found, key=lambda passage: passage.number)
            return
        wanted = None if document_ids is None else set(document_ids)
        if wanted is not None and not wanted:
            return
        few = wanted is not None and len(wanted) <= ASKED
        selected = Wanted(documents=wanted if few else None)
        with self.table.errors():
            columns = ("text", "metadata") if metadata else ("text",)
            for passage in map(passage_rows.to_passage, self._scan(selected, columns)):
                if wanted is None or passage.document_id in wanted:
                    yield passage

    def has(self, passage_id: str) -> bool:
        """Return whether there is an undamaged passage with an id."""
        with self.table.errors():
            return any(True for _ in self._scan(Wanted(ids=[passage_id]), ()))

    def search(
        self,
        vector_D: np.ndarray,
        *,
        top_k: int,
        text: str | None = None,
        where: Where | None = None,
        hybrid: bool = False,
        whole: bool = True,
        warnings: list[str] | None = None,
    ) -> list[Hit]:
        """Return the passages nearest to a question, best first, ties sorted by id.

        Args:
            vector_D: vector of the question.
            top_k: largest number of hits.
            text: words of the question, for ``hybrid``.
            where: filter by metadata names (or ``document_id``, ``title``) with a value or a list
                of allowed values: ``{"lang": "en", "year": [2023, 2024]}``. Or, with LanceDB, SQL:
                ``"json_get_int(metadata, 'year') >= 2020"``.
            hybrid: fuse the ranking by cosine with the ranking by words (BM25).
            whole: read metadata of more than 32 KiB too; otherwise it is ``LEFT_OUT``.
            warnings: receives one line for each damaged passage that is left out.

        Returns:
            Hits with the cosine as their score, for hits found by words alone too.

        Raises:
            InputError: if the filter cannot be used or has unknown names, or the vector has
                another dimension.
        """
        if top_k < 1:
            raise InputError(f"top_k={top_k}; expected at least 1")
        if hybrid and text is None:
            raise InputError("hybrid=True needs the words of the question; pass text=...")
        vector_D = passage_rows.unit(vector_D, self._maker.dimension, name="the question's vector")
        self._check_search(where, hybrid=hybrid)
        rows = len(self)
        if not rows:
            return []
        if where is not None:
            self._check_names(where, known=self._names[1])
        metadata_later = not whole and self._has_large_metadata
        exact = rows < self._exact_below
        sound = partial(self._watch.sound, warnings=warnings)
        selected = Wanted(where=where)
        search = TableQuery(
            self.table, vector_D, selected, exact, metadata=not metadata_later, sound=sound
        )
        with self.table.errors(where):
            hits = search.hits(min(top_k, rows), words=text if hybrid else None)
            if metadata_later:
                small = self._small_metadata([hit.passage.id for hit in hits])
                hits = [_with_metadata(hit, small) for hit in hits]
        if where is not None and (not hits or filters.takes_none(where)):
            self._check_names(where)
        return hits

    def optimise(self) -> None:
        """Merge the table's files and update the indices of words and vectors.

        From ``exact_below`` rows on, vectors have an approximate index. Rows added later are
        compared exactly until the next call.
        """
        rows = len(self)
        with self.table.errors():
            self.table.optimise(exact_below=self._exact_below)
        self._commits = 0
        self._settled = rows

    def settle(self) -> None:
        """Call :meth:`optimise` if it pays: after 64 commits, or after growth by a tenth."""
        if self._commits >= COMMITS or len(self) >= GROWN * max(1, self._settled):
            self.optimise()

    def close(self) -> None:
        """Release the connection and clear cached values."""
        self.table.close()
        self._contents = (-1, {})
        self._names = (-1, frozenset())

    @property
    def _maker(self) -> ModelIdentity:
        if self._identity is None:
            raise InputError(
                f"{self._uri} was opened without its model; open it with the model to add and "
                "search"
            )
        return self._identity

    def _upgrade(self) -> None:
        with self.table.errors():
            if self.table.upgrade():
                self._contents = (-1, {})

    def _check_search(self, where: Where | None, *, hybrid: bool) -> None:
        """Refuse a search that the database of the passages cannot do, with an InputError."""
        if where is not None:
            self.table.check_filter(where)
        if hybrid and not self.table.ranks_words:
            raise InputError(
                f"hybrid=True needs a search by words, which {self._uri} does not have; leave it "
                "out, or use an index of LanceDB or PostgreSQL"
            )

    def _check_names(self, where: Where, *, known: Collection[str] = ()) -> None:
        """Refuse a filter with a name that no passage has in its metadata.

        Args:
            where: filter of a search.
            known: names that need no lookup.

        Raises:
            InputError: if a name is unknown; the message suggests a similar name.
        """
        unchecked = [name for name in filters.names(where) if name not in known]
        existing = self._metadata_names() if unchecked else frozenset()
        for name in unchecked:
            if name not in existing:
                hint = did_you_mean(name, existing | set(filters.COLUMNS))
                raise InputError(f"filter: no passage has {name!r} in its metadata{hint}")

    def _metadata_names(self) -> frozenset[str]:
        """Return the metadata names of all passages, cached for each version of the table."""
        with self.table.errors():
            version = self.table.version()
            if self._names[0] != version:
                few = FEW if self._has_large_metadata else None
                rows = self._scan(Wanted(first=True), ("metadata",), rows=few)
                found = frozenset(name for row in rows for name in passage_rows.to_metadata(row))
                self._names = (version, found)
        return self._names[1]

    def _small_metadata(self, ids: Sequence[str]) -> dict[str, Mapping[str, Value]]:
        """Return the metadata of passages by id, without metadata of more than 32 KiB."""
        found = {}
        for start in range(0, len(ids), FEW):
            some = Wanted(ids=ids[start : start + FEW])
            for row in self._scan(some, ("metadata",)):
                if len(row["metadata"]) <= passage_rows.LARGEST:
                    found[row["id"]] = passage_rows.to_metadata(row)
        return found

    @cached_property
    def _has_large_metadata(self) -> bool:
        """Whether there are rows of an older version, which accepted metadata of any size."""
        with self.table.errors():
            return self.table.has_large_metadata()

    def _scan(
        self, wanted: Wanted, columns: Sequence[str], *, rows: int | None = None
    ) -> Iterator[Row]:
        """Yield the undamaged rows of a selection, with the given columns."""
        found = self.table.scan(wanted, (*FIELDS, *columns), rows=rows)
        yield from self._watch.sound(found)


def _with_metadata(hit: Hit, found: Mapping[str, Mapping[str, Value]]) -> Hit:
    metadata = found.get(hit.passage.id, LEFT_OUT)
    return replace(hit, passage=replace(hit.passage, metadata=metadata))
