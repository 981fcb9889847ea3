"""The table of passages, verified as a whole and made again from the rows that are sound.

A row whose vector is damaged is embedded again. A document of which any other row is damaged or
missing is taken out and named: indexing it again adds it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from lancedb.table import Table

from gritlm.rag.index import checks, lance, schema, table_files
from gritlm.rag.index.checks import FIELDS, DamagedRow
from gritlm.rag.index.lance import IndexFailedError, told

ROWS = 1024  # that are read together
HOPELESS = 16  # rows that failed one after the other, after which their neighbours are not tried
COLUMNS = (*FIELDS, "metadata", "text", "vector")

Embed = Callable[[list[str]], np.ndarray]


@dataclass
class Health:
    """The state of a table.

    Attributes:
        passages: rows that were read.
        rows: the damaged ones.
        unread: ids of the documents of rows that cannot be read; "" where that is unknown.
        files: paths of damaged files.
        numbers: of each document, the numbers of its sound passages.
        sizes: of each document, how many passages it should have.
        failed: rows that could not be read since the last that could.
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
        """One line for each."""
        files = [f"file {name}: it is not as it was written" for name in self.files]
        gone = [f"a passage of {_quoted(name)} cannot be read" for name in self.unread]
        holes = [f"document {name[:200]!r} lacks passages" for name in sorted(self.broken())]
        return [*files, *map(str, self.rows), *gone, *holes]

    def broken(self) -> set[str]:
        """Documents of which not all passages are there, each once."""
        return {
            name
            for name, found in self.numbers.items()
            if sorted(found) != list(range(self.sizes[name]))
        }


@dataclass(frozen=True)
class Mended:
    """The result of making a table again.

    Attributes:
        passages: rows that it holds now.
        embedded: rows whose vector was computed again.
        dropped: ids of documents that were taken out; "" for one whose id cannot be read.
        aside: where a table is that could not be read at all.
    """

    passages: int = 0
    embedded: int = 0
    dropped: tuple[str, ...] = ()
    aside: str = ""


def examine(place: str, table: Table, *, mends_vectors: bool = False) -> Health:
    """Read all files and rows of a table and compare their checksums.

    Args:
        mends_vectors: count a row as sound of which only the vector is damaged.
    """
    health = Health(files=table_files.damaged(place))
    for rows in _windows(table, health):
        health.passages += len(rows)
        for row in checks.rows_of(rows):
            part = checks.damaged_part(row)
            if part is not None:
                health.rows.append(DamagedRow(row["id"], row["document_id"], part))
            if part is None or (part == "vector" and mends_vectors):
                health.numbers[row["document_id"]].append(row["number"])
                health.sizes[row["document_id"]] = row["passages"]
    return health


def rebuild(place: str, embed: Embed) -> Mended:
    """Make the table of a place again from its sound rows.

    Args:
        embed: vectors (N, D) of texts, for rows whose vector is damaged.

    Raises:
        IndexFailedError: when it cannot be written; then the old one stays.
    """
    table_files.restore(place)
    try:
        table = lance.opened(place, None, create=False)
        with told(place):
            target = table.schema
        schema.check_maker(target, None, place=place)
    except IndexFailedError:
        aside = table_files.set_aside(place)
        if aside is None:
            raise
        return Mended(aside=str(aside))
    return rewrite(place, table, embed)


def rewrite(place: str, table: Table, embed: Embed | None) -> Mended:
    """Write the sound rows of a table in place of all rows, in one commit.

    Args:
        embed: as :func:`rebuild` takes it; None takes documents out whose vectors are damaged.
    """
    health = examine(place, table, mends_vectors=embed is not None)
    broken = health.broken()
    old = table_files.present(place)
    embedded = [0]

    def batches() -> Iterator[pa.RecordBatch]:
        for rows in _windows(table, Health()):
            kept = _kept(rows, broken, embed, embedded)
            if len(kept):
                yield from checks.sealed(kept, target).to_batches()

    with told(place):
        target = schema.current(table.schema)
        reader = pa.RecordBatchReader.from_batches(target, batches())
        table.add(reader, mode="overwrite")
        lance.index_words(table)
        passages = table.count_rows()
    for path in old:  # nothing of the old versions is part of the new one
        path.unlink(missing_ok=True)
    table_files.record(place)
    lost = {row.document_id for row in health.rows if row.part != "vector" or embed is None}
    dropped = broken | (lost - health.numbers.keys()) | set(health.unread)
    return Mended(passages, embedded[0], tuple(sorted(dropped)))


def _kept(
    rows: pa.Table, broken: Collection[str], embed: Embed | None, embedded: list[int]
) -> pa.Table:
    """The sound rows of whole documents; damaged vectors are computed again and counted."""
    plain = checks.rows_of(rows)
    parts = [checks.damaged_part(row) for row in plain]
    again = [n for n, part in enumerate(parts) if part == "vector" and embed is not None]
    vector_ND = checks.vectors_of(rows).copy()
    again = [n for n in again if plain[n]["document_id"] not in broken]
    if again and embed is not None:
        texts = [f"{plain[n]['title']} {plain[n]['text']}".strip() for n in again]
        made_ND = embed(texts)
        for n, vector_D in zip(again, made_ND, strict=True):
            vector_ND[n] = schema.unit(vector_D, vector_ND.shape[1], name="a vector made again")
        embedded[0] += len(again)
    whole = [row["document_id"] not in broken for row in plain]
    keep = [n for n, part in enumerate(parts) if whole[n] and (part is None or n in again)]
    column = pa.FixedSizeListArray.from_arrays(
        pa.array(vector_ND.reshape(-1), pa.float32()), vector_ND.shape[1]
    )
    place = rows.column_names.index("vector")
    return rows.set_column(place, rows.schema.field("vector"), column).take(keep)


def _windows(table: Table, health: Health) -> Iterator[pa.Table]:
    """All rows that can be read, some at a time; of the others the documents are noted."""
    total = table.count_rows()
    for start in range(0, total, ROWS):
        yield from _window(table, start, min(ROWS, total - start), health)


def _window(table: Table, start: int, count: int, health: Health) -> Iterator[pa.Table]:
    """Some rows; where they cannot be read together, halves of them, down to single rows."""
    marks = [checks.COLUMN] if lance.has_checks(table) else []
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
        with told(table.name):
            found = table.search().offset(start).limit(count).select(columns).to_arrow()
            found.validate(full=True)
            return found if len(found) == count else None
    except (IndexFailedError, pa.ArrowInvalid):
        return None


def _quoted(name: str) -> str:
    return repr(name[:200]) if name else "a document whose id is lost"


def summary(mended: Mended) -> list[str]:
    """Return lines that say what happened and what is left to do."""
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
