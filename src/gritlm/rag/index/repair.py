"""Verification of a table of passages, and its repair from the undamaged rows.

A row with a damaged vector is embedded again. A document with other damage or missing rows is
removed and reported; index it again to restore it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from lancedb.table import Table

from gritlm.rag.index import passage_rows, schema, table_files
from gritlm.rag.index.lance_errors import lance_errors
from gritlm.rag.index.passage_rows import FIELDS, DamagedRow, unit
from gritlm.rag.index.passage_table import IndexFailedError
from gritlm.rag.index.table import index_words, open_table, with_pairs, with_pairs_field
from gritlm.rag.types import Passage

ROWS = 1024  # rows per read
HOPELESS = 16  # consecutive unreadable rows after which neighbouring rows are not tried one by one
COLUMNS = (*FIELDS, "metadata", "text", "vector")

Embed = Callable[[list[Passage]], np.ndarray]


@dataclass
class Health:
    """Result of a verification of a table.

    Attributes:
        passages: number of rows read.
        rows: damaged rows.
        unread: document ids of unreadable rows; "" if the id is unreadable too.
        files: paths of damaged files.
        numbers: passage numbers of the undamaged rows, by document id.
        sizes: number of passages that a document should have, by document id.
        failed: number of consecutive unreadable rows.
    """

    passages: int = 0
    rows: list[DamagedRow] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    numbers: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    sizes: dict[str, int] = field(default_factory=dict)
    failed: int = 0

    @property
    def problems(self) -> list[str]:
        """Lines that describe the damage, one for each finding."""
        files = [f"file {name}: it is not as it was written" for name in self.files]
        unread = [f"a passage of {_quoted(name)} cannot be read" for name in self.unread]
        holes = [f"document {name[:200]!r} lacks passages" for name in sorted(self.broken())]
        return [*files, *map(str, self.rows), *unread, *holes]

    def broken(self) -> set[str]:
        """Return the ids of documents with missing or duplicate passages."""
        return {
            name
            for name, found in self.numbers.items()
            if sorted(found) != list(range(self.sizes[name]))
        }


@dataclass(frozen=True)
class Mended:
    """Result of a repair.

    Attributes:
        passages: number of rows after the repair.
        embedded: number of rows whose vector was computed again.
        dropped: ids of removed documents; "" for a document with an unreadable id.
        aside: new folder of a table that could not be read at all; else "".
    """

    passages: int = 0
    embedded: int = 0
    dropped: tuple[str, ...] = ()
    aside: str = ""


def examine(uri: str, table: Table, *, mends_vectors: bool = False) -> Health:
    """Verify all files and rows of a table by their checksums.

    Args:
        uri: folder or address of the index.
        table: table of the index.
        mends_vectors: count a row with a damaged vector, and no other damage, as undamaged.
    """
    health = Health(files=table_files.damaged(uri))
    for rows in _windows(table, health):
        health.passages += len(rows)
        for row in passage_rows.rows_of(rows):
            part = passage_rows.damaged_part(row)
            if part is not None:
                health.rows.append(DamagedRow(row["id"], row["document_id"], part))
            if part is None or (part == "vector" and mends_vectors):
                health.numbers[row["document_id"]].append(row["number"])
                health.sizes[row["document_id"]] = row["passages"]
    return health


def rebuild(uri: str, embed: Embed) -> Mended:
    """Rebuild the table of an index from its undamaged rows.

    Args:
        uri: folder or address of the index.
        embed: returns the vectors (N, D) of passages, for rows with a damaged vector.

    Raises:
        IndexFailedError: if the table cannot be written; the old table then stays.
    """
    table_files.restore(uri)
    try:
        table = open_table(uri, None, create=False)
        with lance_errors(uri):
            target = table.schema
        schema.check_maker(target, None, place=uri)
    except IndexFailedError:
        aside = table_files.set_aside(uri)
        if aside is None:
            raise
        return Mended(aside=str(aside))
    return rewrite(uri, table, embed)


def rewrite(uri: str, table: Table, embed: Embed | None) -> Mended:
    """Replace all rows of a table by its undamaged rows, in one commit.

    Args:
        uri: folder or address of the index.
        table: table of the index.
        embed: returns the vectors (N, D) of passages; None removes documents with damaged vectors.
    """
    health = examine(uri, table, mends_vectors=embed is not None)
    broken = health.broken()
    old = table_files.present(uri)
    embedded = [0]

    def batches() -> Iterator[pa.RecordBatch]:
        for rows in _windows(table, Health()):
            kept = _kept(rows, broken, embed, embedded)
            if len(kept):
                yield from passage_rows.sealed(with_pairs(kept), target).to_batches()

    with lance_errors(uri):
        target = with_pairs_field(schema.current(table.schema))
        reader = pa.RecordBatchReader.from_batches(target, batches())
        table.add(reader, mode="overwrite")
        index_words(table)
        passages = table.count_rows()
    for path in old:  # the new version shares no file with the old ones
        path.unlink(missing_ok=True)
    table_files.record(uri)
    lost = {row.document_id for row in health.rows if row.part != "vector" or embed is None}
    dropped = broken | (lost - health.numbers.keys()) | set(health.unread)
    return Mended(passages, embedded[0], tuple(sorted(dropped)))


def _kept(
    rows: pa.Table, broken: Collection[str], embed: Embed | None, embedded: list[int]
) -> pa.Table:
    """Return the undamaged rows of complete documents, with recomputed vectors."""
    plain = passage_rows.rows_of(rows)
    parts = [passage_rows.damaged_part(row) for row in plain]
    to_embed = [n for n, part in enumerate(parts) if part == "vector" and embed is not None]
    vector_ND = passage_rows.vectors_of(rows).copy()
    to_embed = [n for n in to_embed if plain[n]["document_id"] not in broken]
    if to_embed and embed is not None:
        new_ND = embed([passage_rows.to_passage(plain[n]) for n in to_embed])
        for n, vector_D in zip(to_embed, new_ND, strict=True):
            vector_ND[n] = unit(vector_D, vector_ND.shape[1], name="a recomputed vector")
        embedded[0] += len(to_embed)
    whole = [row["document_id"] not in broken for row in plain]
    keep = [n for n, part in enumerate(parts) if whole[n] and (part is None or n in to_embed)]
    column = pa.FixedSizeListArray.from_arrays(
        pa.array(vector_ND.reshape(-1), pa.float32()), vector_ND.shape[1]
    )
    column_number = rows.column_names.index("vector")
    return rows.set_column(column_number, rows.schema.field("vector"), column).take(keep)


def _windows(table: Table, health: Health) -> Iterator[pa.Table]:
    """Yield all readable rows in batches; record the documents of unreadable rows."""
    total = table.count_rows()
    for start in range(0, total, ROWS):
        yield from _window(table, start, min(ROWS, total - start), health)


def _window(table: Table, start: int, count: int, health: Health) -> Iterator[pa.Table]:
    """Yield a range of rows; a range that cannot be read is halved, down to single rows."""
    marks = [passage_rows.COLUMN] if passage_rows.has_checks(table.schema) else []
    found = _read(table, start, count, [*COLUMNS, *marks])
    if found is not None:
        health.failed = 0
        yield found
    elif count == 1 or health.failed >= HOPELESS:
        names = _read(table, start, count, ["document_id"])
        health.unread += [""] if names is None else names.column(0).to_pylist()
        health.failed += 1
    else:
        yield from _window(table, start, count // 2, health)
        yield from _window(table, start + count // 2, count - count // 2, health)


def _read(table: Table, start: int, count: int, columns: list[str]) -> pa.Table | None:
    try:
        with lance_errors(table.name):
            found = table.search().offset(start).limit(count).select(columns).to_arrow()
            found.validate(full=True)
            return found if len(found) == count else None
    except (IndexFailedError, pa.ArrowInvalid):
        return None


def _quoted(name: str) -> str:
    return repr(name[:200]) if name else "a document whose id is lost"


def summary(mended: Mended) -> list[str]:
    """Return lines that report the result of a repair and the remaining steps."""
    if mended.aside:
        return [
            f"the table of passages could not be read and is now at {mended.aside}; index the "
            "documents again with gritlm index: their key/value blocks stay"
        ]
    lines = [f"{mended.passages} passages kept, {mended.embedded} embedded again"]
    lines += [f"lost: document {name[:200]!r}; index it again" for name in mended.dropped if name]
    if "" in mended.dropped:
        lines.append(
            "lost: documents whose ids cannot be read; index all documents again: those that are "
            "still here are left as they are"
        )
    return lines
