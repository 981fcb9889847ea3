"""Verification and repair of a table in any database, by the checksums of its rows.

A document with a damaged or missing row is removed and reported; index it again to restore it.
"""

from __future__ import annotations

from gritlm.rag.index import passage_rows
from gritlm.rag.index.passage_rows import DamagedRow
from gritlm.rag.index.passage_table import PassageTable, Wanted
from gritlm.rag.index.repair import COLUMNS, Health, Mended


def examine(table: PassageTable) -> Health:
    """Verify all rows of a table by their checksums.

    Raises:
        IndexFailedError: if the table cannot be read.
    """
    health = Health()
    with table.errors():
        for row in table.scan(Wanted(), COLUMNS):
            health.passages += 1
            part = passage_rows.damaged_part(row)
            if part is None:
                health.numbers[row["document_id"]].append(row["number"])
                health.sizes[row["document_id"]] = row["passages"]
            else:
                health.rows.append(DamagedRow(row["id"], row["document_id"], part))
    return health


def rebuild(table: PassageTable) -> Mended:
    """Remove the documents with a damaged or missing row.

    Raises:
        IndexFailedError: if the table cannot be written; it is then unchanged.
    """
    health = examine(table)
    dropped = health.broken() | {row.document_id for row in health.rows}
    with table.errors():
        if dropped:
            table.delete(dropped)
        return Mended(table.count(), 0, tuple(sorted(dropped)))
