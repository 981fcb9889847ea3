"""Index: passages, their vectors and their words in a LanceDB table. Shapes: D of a vector.

Every change is one commit of the table, so a process that dies leaves the old state or the new
one. Readers see a commit as soon as it is there. One process writes at a time: of two that add the
same new document at once, both would be kept.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from lancedb.table import Table

from gritlm.errors import InputError, did_you_mean
from gritlm.rag.identity import ModelIdentity
from gritlm.rag.index import filters, lance, repair, schema, table_files
from gritlm.rag.index.checks import FIELDS, DamagedRow, Watch
from gritlm.rag.index.filters import Where
from gritlm.rag.index.lance import IndexFailedError, told
from gritlm.rag.index.search import TableQuery
from gritlm.rag.types import LEFT_OUT, Hit, Passage, Value

log = logging.getLogger(__name__)

EXACT_BELOW = 10_000
COMMITS = 64  # after which rows are spread over too many files
GROWN = 1.1  # and only then, so that the cost of putting them together stays in proportion
KEPT = timedelta(minutes=10)  # old states, for readers that are in the middle of a search
FIRST = "number = 0"  # one passage of each document
ASKED = 256  # documents that a condition names; more are looked for among all
FEW = 16  # rows that are read together where each may have large metadata


@dataclass(frozen=True)
class IndexedDocument:
    """A document as the index knows it.

    Attributes:
        passages: how many.
        content: hash of its content, as it was handed in.
    """

    id: str
    title: str
    passages: int
    metadata: Mapping[str, Value]
    content: str


class Index:
    """Passages of documents, found by meaning, words and metadata."""

    def __init__(
        self, table: Table, maker: ModelIdentity | None, *, place: str, exact_below: int
    ) -> None:
        self._table = table
        self._given = maker
        self._place = place
        self._exact_below = exact_below
        self._watch = Watch(place, lance.remedy)
        self._known: tuple[int, dict[str, str]] = (-1, {})  # of which version of the table
        self._names: tuple[int, frozenset[str]] = (-1, frozenset())  # of metadata, likewise
        self._commits = 0
        self._settled = len(self)  # rows when files were last put together

    @classmethod
    def open(
        cls,
        uri: str | Path,
        maker: ModelIdentity | None,
        *,
        create: bool = True,
        exact_below: int = EXACT_BELOW,
    ) -> Index:
        """The index in a folder, or at any address that LanceDB takes (``s3://bucket/name``).

        Args:
            maker: whose vectors it holds; None to look at what is there without the model: then
                nothing is made, added or searched.
            create: make it if it is not there.
            exact_below: with fewer rows a search compares with all of them; from there on
                ``optimise`` makes an approximate index.

        Raises:
            InputError: where there is none and none is to be made, for one that another model
                or version made, and for a place that cannot be an index.
            IndexFailedError: for one that cannot be read.
        """
        place = str(uri) if "://" in str(uri) else str(Path(uri).expanduser())
        create = create and maker is not None
        check_files(place)
        table = lance.opened(place, maker, create=create)
        with told(place):
            found = table.schema
        schema.check_maker(found, maker, place=place)
        if create:
            with told(place):
                lance.index_words(table)
            table_files.record(place)
        return cls(table, maker, place=place, exact_below=exact_below)

    @property
    def damages(self) -> list[DamagedRow]:
        """The damaged rows that were met so far; they are left out wherever rows are shown."""
        return list(self._watch.found)

    def __len__(self) -> int:
        """Passages."""
        with told(self._place):
            return self._table.count_rows()

    def add(
        self, rows: Sequence[tuple[Passage, np.ndarray]], *, contents: Mapping[str, str]
    ) -> None:
        """Put documents in the place of what was known under their ids, all in one commit.

        Args:
            rows: all passages of these documents, with their vectors (D,).
            contents: ids of the documents, and hashes of their contents. A document without
                rows is taken out.

        Raises:
            InputError: for passages that are not whole documents, and for unfit vectors.
            IndexFailedError: when it cannot be written; what was there is there still.
        """
        batch = schema.to_arrow(rows, contents, self._maker)
        self._add_checks()
        known = self.known()
        old = contents.keys() & known.keys()
        if not rows and not old:
            return
        with told(self._place):
            if old:
                self._replace(batch, old)
            else:
                self._table.add(batch)
            version = self._table.version
        table_files.record(self._place)
        if version == self._known[0] + 1:  # no other process wrote meanwhile
            left = {name: known[name] for name in known.keys() - old}
            added = {passage.document_id for passage, _ in rows}
            self._known = (version, left | {name: contents[name] for name in added})
        self._commits += 1
        if self._commits >= COMMITS and len(self) >= GROWN * self._settled:
            self.optimise()

    def delete(self, document_ids: Iterable[str]) -> int:
        """Take documents out; unknown ids are no error.

        Returns:
            How many passages went.
        """
        if isinstance(document_ids, str):
            raise InputError(f"document_ids={document_ids!r} is one text; expected a list of ids")
        self._add_checks()
        known = self.known()
        gone = set(document_ids) & known.keys()
        if not gone:
            return 0
        rows = len(self)
        try:
            with told(self._place):
                self._table.delete(filters.among("document_id", gone))
        except IndexFailedError:
            if gone & self.known().keys():
                raise
            log.warning("%s: an error followed a deletion that took effect", self._place)
        with told(self._place):
            version = self._table.version
        table_files.record(self._place)
        if version == self._known[0] + 1:  # no other process wrote meanwhile
            self._known = (version, {name: known[name] for name in known.keys() - gone})
        self._commits += 1
        return rows - len(self)

    def known(self) -> dict[str, str]:
        """Ids of documents, and the hashes of contents that they were added with."""
        with told(self._place):
            version = self._table.version
            if self._known[0] != version:
                rows = self._scan(FIRST, ())
                self._known = (version, {row["document_id"]: row["content"] for row in rows})
        return dict(self._known[1])

    def documents(
        self, ids: Collection[str] | None = None, *, whole: bool = True
    ) -> list[IndexedDocument]:
        """All documents, or those of some ids, in the order of their ids.

        Args:
            whole: also read metadata of more than 32 KiB; else ``LEFT_OUT`` stands for it.
        """
        if ids is not None and not ids:
            return []
        where = FIRST if ids is None else f"{FIRST} AND {filters.among('document_id', ids)}"
        bare = not whole and self._has_large_metadata
        with told(self._place):
            rows = list(self._scan(where, () if bare else ("metadata",)))
            small = self._small_metadata([row["id"] for row in rows]) if bare else {}
            found = [
                IndexedDocument(
                    id=row["document_id"],
                    title=row["title"],
                    passages=row["passages"],
                    metadata=small.get(row["id"], LEFT_OUT) if bare else schema.to_metadata(row),
                    content=row["content"],
                )
                for row in rows
            ]
        return sorted(found, key=lambda document: document.id)

    def passages(
        self, document_ids: str | Collection[str] | None = None, *, metadata: bool = True
    ) -> Iterator[Passage]:
        """Of one document, in order; of some or of all, as they are stored.

        Args:
            metadata: read it too; else ``LEFT_OUT`` stands for it.
        """
        if isinstance(document_ids, str):
            found = self.passages([document_ids], metadata=metadata)
            yield from sorted(found, key=lambda passage: passage.number)
            return
        wanted = None if document_ids is None else set(document_ids)
        if wanted is not None and not wanted:
            return
        few = wanted is not None and len(wanted) <= ASKED
        where = filters.among("document_id", wanted) if wanted and few else None
        with told(self._place):
            columns = ("text", "metadata") if metadata else ("text",)
            for passage in map(schema.to_passage, self._scan(where, columns)):
                if wanted is None or passage.document_id in wanted:
                    yield passage

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
        """The passages nearest to a question, best first; equal ones in the order of their ids.

        Args:
            vector_D: the question's.
            text: its words, for ``hybrid``.
            where: names of metadata (or ``document_id``, ``title``) with a value, or with a list
                of which one fits: ``{"lang": "en", "year": [2023, 2024]}``. Or SQL on the columns
                ``id document_id title text number start end metadata``:
                ``"json_get_int(metadata, 'year') >= 2020"``.
            hybrid: fuse the ranking by cosine with the one by words (BM25).
            whole: also read metadata of more than 32 KiB; else ``LEFT_OUT`` stands for it.
            warnings: takes a line for each damaged passage that is left out.

        Returns:
            Hits with the cosine as their score, also where their words were what was found.

        Raises:
            InputError: for a filter that cannot be used or asks for unknown names, and for a
                vector that does not fit.
        """
        if top_k < 1:
            raise InputError(f"top_k={top_k}; expected at least 1")
        if hybrid and text is None:
            raise InputError("hybrid=True needs the words of the question; hand in text=...")
        vector_D = schema.unit(vector_D, self._maker.dimension, name="the question's vector")
        condition = None if where is None else filters.condition(where)
        rows = len(self)
        if not rows:
            return []
        if where is not None:
            self._check_names(where, known=self._names[1])
        bare = not whole and self._has_large_metadata
        exact = rows < self._exact_below
        sound = partial(self._watch.sound, warnings=warnings)
        search = TableQuery(self._table, vector_D, condition, exact, metadata=not bare, sound=sound)
        with told(self._place, where):
            hits = search.hits(min(top_k, rows), words=text if hybrid else None)
            if bare:
                small = self._small_metadata([hit.passage.id for hit in hits])
                hits = [_with_metadata(hit, small) for hit in hits]
        if where is not None and (not hits or filters.takes_none(where)):
            self._check_names(where)
        return hits

    def optimise(self) -> None:
        """Put files together, and bring the indices of words and vectors up to date.

        From ``exact_below`` rows on there is an approximate index of vectors. Rows that are added
        later are compared exactly, until this takes them in.
        """
        rows = len(self)
        with told(self._place):
            if rows >= self._exact_below and lance.not_indexed(self._table) > rows // 2:
                lance.index_vectors(self._table)
            self._table.optimize(cleanup_older_than=KEPT)
        # LanceDB keeps the files of every index that it has seen open, as long as a connection is.
        self._table = lance.opened(self._place, self._given, create=False)
        table_files.record(self._place)
        self._commits = 0
        self._settled = rows

    def settle(self) -> None:
        """:meth:`optimise`, where it pays: after many small changes, or one that is large."""
        if self._commits >= COMMITS or len(self) >= GROWN * max(1, self._settled):
            self.optimise()

    def close(self) -> None:
        """Forget what is remembered of the table; LanceDB holds no lock and nothing unwritten."""
        self._known = (-1, {})
        self._names = (-1, frozenset())

    @property
    def _maker(self) -> ModelIdentity:
        if self._given is None:
            raise InputError(
                f"{self._place} was opened without its model, to look at it; open it with the "
                "model to add and search"
            )
        return self._given

    def _add_checks(self) -> None:
        """Give a table of version 1 its checksums; a document that is damaged is taken out."""
        if not lance.has_checks(self._table):
            mended = repair.rewrite(self._place, self._table, None)
            for line in repair.summary(mended):
                log.warning("%s now has checksums: %s", self._place, line)
            self._known = (-1, {})

    def _replace(self, batch: pa.Table, old: Iterable[str]) -> None:
        """The new rows in, those of the old documents that are not among them out."""
        merge = self._table.merge_insert("id")
        merge = merge.when_matched_update_all().when_not_matched_insert_all()
        merge.when_not_matched_by_source_delete(filters.among("document_id", old)).execute(batch)

    def _check_names(self, where: Where, *, known: Collection[str] = ()) -> None:
        """Refuse a filter with a name that no passage has in its metadata.

        Args:
            known: names that are not looked up.

        Raises:
            InputError: naming it, with a name that is like it.
        """
        asked = [name for name in filters.names(where) if name not in known]
        there = self._metadata_names() if asked else frozenset()
        for name in asked:
            if name not in there:
                hint = did_you_mean(name, there | set(filters.COLUMNS))
                raise InputError(f"filter: no passage has {name!r} in its metadata{hint}")

    def _metadata_names(self) -> frozenset[str]:
        """Return the names in the metadata of all passages; read once for each version."""
        with told(self._place):
            version = self._table.version
            if self._names[0] != version:
                few = FEW if self._has_large_metadata else None
                rows = self._scan(FIRST, ("metadata",), rows=few)
                found = frozenset(name for row in rows for name in schema.to_metadata(row))
                self._names = (version, found)
        return self._names[1]

    def _small_metadata(self, ids: Sequence[str]) -> dict[str, Mapping[str, Value]]:
        """Return the metadata of passages by their ids, a few at a time, but not large one."""
        found = {}
        for start in range(0, len(ids), FEW):
            where = filters.among("id", ids[start : start + FEW])
            for row in self._scan(where, ("metadata",)):
                if len(row["metadata"]) <= schema.LARGEST:
                    found[row["id"]] = schema.to_metadata(row)
        return found

    @cached_property
    def _has_large_metadata(self) -> bool:
        """Whether an older version, which took metadata of any size, has added such rows."""
        with told(self._place):
            rows = lance.scan(self._table, schema.LARGE, ("id",), rows=FEW)
            return next(rows, None) is not None

    def _scan(
        self, where: str | None, columns: Sequence[str], *, rows: int | None = None
    ) -> Iterator[dict[str, Any]]:
        """Read the fields and some columns of sound rows that fulfil a condition."""
        found = lance.scan(self._table, where, (*FIELDS, *columns), rows=rows)
        yield from self._watch.sound(found)


def _with_metadata(hit: Hit, found: Mapping[str, Mapping[str, Value]]) -> Hit:
    metadata = found.get(hit.passage.id, LEFT_OUT)
    return replace(hit, passage=replace(hit.passage, metadata=metadata))


def check_files(place: str) -> None:
    """Compare the files of a table with their checksums, small ones first.

    Damaged rows are left out when they are read, so a damaged file of rows is only logged.

    Raises:
        IndexFailedError: for any other damaged file: the table cannot be trusted.
    """
    damaged = table_files.damaged_at_opening(place)
    for name in damaged:
        reason = f"the index {place} is damaged: {name} is not as it was written"
        if not table_files.is_data(name):
            raise IndexFailedError(f"{reason}; {lance.remedy(place)}")
        log.warning("%s; its damaged rows are left out; %s", reason, lance.remedy(place))
