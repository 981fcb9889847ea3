"""Parquet files of a part: its vectors, and the rows without one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gritlm.scale.bulk.part_rows import RejectedRow
from gritlm.scale.bulk.vector_worker import EmbeddedPart

FINGERPRINT = b"gritlm.weights"  # metadata of a file: hash of the weights that made it


def vector_table(part: EmbeddedPart) -> Any:
    """Return the file of the vectors of a part, as a buffer of pyarrow."""
    import pyarrow as pa

    vectors_ND = part.vectors_ND
    flat = pa.array(vectors_ND.reshape(-1))
    vectors = pa.FixedSizeListArray.from_arrays(flat, vectors_ND.shape[1])
    table = pa.table({"id": pa.array(part.ids, pa.string()), "embedding": vectors})
    return _parquet(table.replace_schema_metadata({FINGERPRINT: part.fingerprint}))


def rejected_table(rows: Sequence[RejectedRow]) -> Any:
    """Return the file of rejected rows, as a buffer of pyarrow."""
    import pyarrow as pa

    names = pa.array([row.id for row in rows], pa.string())
    reasons = pa.array([row.reason for row in rows], pa.string())
    return _parquet(pa.table({"id": names, "reason": reasons}))


def _parquet(table: Any) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = pa.BufferOutputStream()
    # Vectors have no values in common: dictionaries and compression cost time and save nothing.
    pq.write_table(table, buffer, use_dictionary=False, compression="NONE", write_statistics=False)
    return buffer.getvalue()
