"""Passages in a collection of Qdrant, embedded or on a server. Shapes: D of a vector.

Qdrant has no transactions. A point without a vector, the manifest, has the identity of the model
and the change in progress; readers leave out the points of a change that is not committed, and
those that a committed change has yet to delete. Writing the manifest commits a change:

1. the manifest names the change and its documents;
2. new points are written, with the number of the change;
3. the manifest marks the change as committed;
4. old points are deleted;
5. the manifest forgets the change.

The next process that writes, or the next change, finishes or undoes a change that was cut short.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import numpy as np
import pyarrow as pa
from qdrant_client import QdrantClient, models

from gritlm.errors import InputError
from gritlm.rag.identity import ModelIdentity
from gritlm.rag.index import passage_rows
from gritlm.rag.index.databases import qdrant_points, terms
from gritlm.rag.index.databases.qdrant_address import QdrantAddress, connect, qdrant_errors
from gritlm.rag.index.databases.qdrant_points import MANIFEST, CollectionManifest, PendingChange
from gritlm.rag.index.filters import Where
from gritlm.rag.index.passage_table import PassageTable, Row, Wanted
from gritlm.rag.index.schema import check_identity, made_by

log = logging.getLogger(__name__)

PAGE = 256  # points of a read
WRITTEN = 4 * 2**20  # bytes of vectors of a write, well below the limit of a server


class QdrantTable(PassageTable):
    """Collection of passages; see :class:`gritlm.rag.index.passage_table.PassageTable`."""

    ranks_words = False

    def __init__(self, client: QdrantClient, address: QdrantAddress) -> None:
        self._client = client
        self._address = address
        # The embedded database is not made for several threads.
        self._lock = threading.RLock()

    @classmethod
    def open(cls, uri: str, maker: ModelIdentity | None, *, create: bool) -> QdrantTable:
        """Open a collection, or create it; see :func:`gritlm.rag.index.addresses.open_table`."""
        address = QdrantAddress.of(uri)
        if address.folder is not None and not create and not address.folder.is_dir():
            raise InputError(_missing(uri))
        with qdrant_errors(uri):
            client = connect(address, create=create)
        table = cls(client, address)
        try:
            with qdrant_errors(uri):
                table._prepare(maker, create=create)
        except BaseException:
            client.close()
            raise
        return table

    def errors(self, _where: Where | None = None, /) -> AbstractContextManager[None]:
        """Translate the exceptions of Qdrant; a filter is never their cause."""
        return qdrant_errors(self._address.uri)

    def check_filter(self, where: Where) -> None:
        """Refuse SQL, and what no database of ours takes."""
        terms.conditions(where, database="Qdrant")

    def version(self) -> int:
        """Return the number of committed changes."""
        return self._manifest().version

    def count(self) -> int:
        """Return the number of visible passages."""
        return self._manifest().passages

    def scan(
        self, wanted: Wanted, columns: Sequence[str], *, rows: int | None = None
    ) -> Iterator[Row]:
        """Yield rows in the order of Qdrant's ids."""
        offset = None
        selected = qdrant_points.selection(wanted, self._manifest())
        while True:
            with self._lock:
                points, offset = self._client.scroll(
                    self._name,
                    scroll_filter=selected,
                    limit=rows or PAGE,
                    offset=offset,
                    with_payload=qdrant_points.payload_of(columns),
                    with_vectors="vector" in columns,
                )
            yield from (qdrant_points.row(point, columns) for point in points)
            if offset is None:
                return

    def nearest(
        self,
        vector_D: np.ndarray,
        limit: int,
        wanted: Wanted,
        columns: Sequence[str],
        *,
        exact: bool,
    ) -> list[Row]:
        """Return the rows nearest to a vector, ties sorted by id."""
        with self._lock:
            found = self._client.query_points(
                self._name,
                query=vector_D.tolist(),
                using=qdrant_points.VECTOR,
                query_filter=qdrant_points.selection(wanted, self._manifest()),
                search_params=self._search_params(limit, exact=exact),
                limit=limit,
                with_payload=qdrant_points.payload_of(columns),
                with_vectors=True,
            )
        rows = [qdrant_points.row(point, [*columns, "vector"]) for point in found.points]
        return passage_rows.sorted_by_cosine(rows, vector_D)

    def worded(self, words: str, limit: int, wanted: Wanted, columns: Sequence[str]) -> list[Row]:
        """Refuse: Qdrant filters by words, and does not rank by them."""
        raise NotImplementedError("Qdrant does not rank passages by words")

    def write(self, batch: pa.Table, replaced: Collection[str]) -> None:
        """Add rows and remove the old rows of documents, as one change."""
        with self._lock:
            before = self._settled()
            change = PendingChange(before.version + 1, tuple(sorted(replaced)))
            self._put(replace(before, pending=change))
            try:
                points = qdrant_points.points(batch, change.number)
                step = max(1, WRITTEN // max(1, 4 * before.identity.dimension))
                for start in range(0, len(points), step):
                    self._client.upsert(self._name, points[start : start + step], wait=True)
            except Exception:
                self._try_to_undo()
                raise
            self._commit(before, change, added=len(points))

    def delete(self, documents: Collection[str]) -> None:
        """Remove the rows of documents, as one change."""
        with self._lock:
            before = self._settled()
            change = PendingChange(before.version + 1, tuple(sorted(documents)))
            self._commit(before, change, added=0)

    def upgrade(self) -> bool:
        """Return False: there is no older version."""
        return False

    def has_large_metadata(self) -> bool:
        """Return False: there is no older version."""
        return False

    def optimise(self, *, exact_below: int) -> None:
        """Do nothing: Qdrant merges its segments and builds its indices itself."""

    def close(self) -> None:
        """Close the client, which gives an embedded folder free for other processes."""
        with self._lock:
            self._client.close()

    @property
    def _name(self) -> str:
        return self._address.collection

    def _search_params(self, limit: int, *, exact: bool) -> models.SearchParams | None:
        if self._address.folder is not None:  # always compares all vectors
            return None
        return models.SearchParams(exact=exact, hnsw_ef=max(128, 2 * limit))

    def _prepare(self, maker: ModelIdentity | None, *, create: bool) -> None:
        """Create the collection if it is missing, check its model, and finish its last change."""
        uri = self._address.uri
        if not self._client.collection_exists(self._name):
            if not create or maker is None:
                raise InputError(_missing(uri))
            qdrant_points.create(
                self._client, self._name, maker.dimension, indexed=self._address.folder is None
            )
        found = self._client.retrieve(self._name, [MANIFEST], with_payload=True)
        if not found and create and maker is not None:
            if self._client.count(self._name).count:
                raise InputError(
                    f"{uri} holds a collection that gritlm did not make; name another one"
                )
            self._put(CollectionManifest(made_by(maker)))
        manifest = self._manifest()
        check_identity(manifest.identity, maker, place=uri)
        if create:
            self._settled()

    def _manifest(self) -> CollectionManifest:
        with self._lock:
            found = self._client.retrieve(self._name, [MANIFEST], with_payload=True)
        if not found:
            raise InputError(
                f"{self._address.uri} holds a collection that gritlm did not make; name another one"
            )
        return CollectionManifest.from_payload(found[0].payload or {})

    def _put(self, manifest: CollectionManifest) -> None:
        point = models.PointStruct(id=MANIFEST, vector={}, payload=manifest.payload())
        self._client.upsert(self._name, [point], wait=True)

    def _settled(self) -> CollectionManifest:
        """Finish or undo a change that was cut short, and return the manifest without it."""
        manifest = self._manifest()
        if manifest.pending is None:
            return manifest
        if manifest.pending.committed:
            self._remove(qdrant_points.outdated(manifest.pending))
        else:
            log.warning(
                "%s: a change was cut short and is undone; index its documents again: %s",
                self._address.uri,
                ", ".join(manifest.pending.documents[:10]) or "new ones",
            )
            self._remove(qdrant_points.written_by(manifest.pending))
        settled = replace(manifest, pending=None)
        self._put(settled)
        return settled

    def _commit(self, before: CollectionManifest, change: PendingChange, *, added: int) -> None:
        removed = self._count(qdrant_points.outdated(change)) if change.documents else 0
        passages = before.passages + added - removed
        done = replace(before, version=change.number, passages=passages)
        self._put(replace(done, pending=replace(change, committed=True)))
        if change.documents:
            self._remove(qdrant_points.outdated(change))
        self._put(done)

    def _try_to_undo(self) -> None:
        try:
            self._settled()
        except Exception as error:
            log.warning(
                "%s: a failed change could not be undone (%s); the next change does it",
                self._address.uri,
                error,
            )

    def _remove(self, selected: models.Filter) -> None:
        self._client.delete(self._name, models.FilterSelector(filter=selected), wait=True)

    def _count(self, selected: models.Filter) -> int:
        return int(self._client.count(self._name, count_filter=selected, exact=True).count)


def _missing(uri: str) -> str:
    return f"there is no index at {uri}; create one with: gritlm index FOLDER --to STORE --index"
