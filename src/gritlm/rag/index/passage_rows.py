"""Rows of passages: their checksums, damaged rows found while reading, and their passages.

Shapes: N rows, D of a vector.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from blake3 import blake3
from xxhash import xxh3_64_digest

from gritlm.errors import InputError
from gritlm.rag.types import LEFT_OUT, Passage, Value, given_metadata

log = logging.getLogger(__name__)

COLUMN = "check"
PARTS = ("fields", "metadata", "text", "vector")
SIZE = 8  # bytes of the checksum of a part
FIELDS = (
    "id",
    "document_id",
    "title",
    "number",
    "start",
    "end",
    "passages",
    "content",
)
SHOWN = ("id", "document_id", "title", "text", "number", "start", "end", "metadata")
BARE = SHOWN[:-1]  # without metadata, which may be large
LARGEST = 2**15  # characters of metadata; only older versions added more
LARGE = f"octet_length(json_extract(metadata, '$')) > {LARGEST}"
_ID = 32  # characters of an id that is a hash of the content


@dataclass(frozen=True)
class DamagedRow:
    """Row of a table that differs from the row written.

    Attributes:
        passage: id of the passage, as read.
        document_id: id of its document, as read.
        part: damaged part: ``fields``, ``metadata``, ``text`` or ``vector``.
    """

    passage: str
    document_id: str
    part: str

    def __str__(self) -> str:
        verb = "are" if self.part == "fields" else "is"
        return (
            f"passage {self.passage[:80]!r} of document {self.document_id[:200]!r}: its "
            f"{self.part} {verb} not as written"
        )


class Watch:
    """Damaged rows of one table found so far; each is logged once.

    Attributes:
        uri: folder or address of the index.
        remedy: returns the advice for damage in an index at a given address.
        found: damaged rows, in the order in which they were read.
    """

    def __init__(self, uri: str, remedy: Callable[[str], str]) -> None:
        self.uri = uri
        self.remedy = remedy
        self.found: list[DamagedRow] = []

    def sound(
        self, rows: Iterable[dict[str, Any]], warnings: list[str] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yield the undamaged rows.

        Args:
            rows: rows as read, with any of their parts and the checksums.
            warnings: receives one line for each damaged row.
        """
        for row in rows:
            part = damaged_part(row)
            if part is None:
                yield row
                continue
            damage = DamagedRow(row["id"], row["document_id"], part)
            line = f"{damage}; it is left out: {self.remedy(self.uri)}"
            if warnings is not None and line not in warnings:
                warnings.append(line)
            if damage not in self.found:
                self.found.append(damage)
                log.warning("%s: %s", self.uri, line)


def sealed(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return the rows with their checksums, as a table of this schema."""
    vector_ND = vectors_of(rows)
    plain = rows.select([*FIELDS, "metadata", "text"]).to_pylist()
    checks = [
        b"".join(_digest(part, row | {"vector": vector_ND[number]}) for part in PARTS)
        for number, row in enumerate(plain)
    ]
    columns = {name: rows.column(name) for name in rows.column_names if name != COLUMN}
    columns[COLUMN] = pa.array(checks, schema.field(COLUMN).type)
    return pa.Table.from_arrays([columns[field.name] for field in schema], schema=schema)


def damaged_part(row: Mapping[str, Any]) -> str | None:
    """Return the damaged part of a row; None if the row is intact.

    In a table without checksums, the content of a row is compared with its id, which is a hash.
    """
    check = row.get(COLUMN)
    if check is None:
        return None if _fits_id(row) else "text"
    there = [part for part in PARTS if part == "fields" or part in row]
    for part in there:
        begin = SIZE * PARTS.index(part)
        if check[begin : begin + SIZE] != _digest(part, row):
            return part
    return None


def passage_id(document_id: str, embedded: str, number: int) -> str:
    """Return the id of a passage: a hash of its document's id, embedded text and number."""
    return blake3(json.dumps([document_id, embedded, number]).encode()).hexdigest()[:_ID]


def vectors_of(rows: pa.Table) -> np.ndarray[Any, Any]:
    """Return the column ``vector`` (N, D)."""
    column = rows.column("vector").combine_chunks()
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(rows), -1) if len(rows) else flat.reshape(0, column.type.list_size)


def rows_of(found: pa.Table) -> list[dict[str, Any]]:
    """Return rows as dicts, the vectors as arrays (D,)."""
    if "vector" not in found.column_names:
        return found.to_pylist()
    vector_ND = vectors_of(found)
    plain = found.drop_columns(["vector"]).to_pylist()
    return [row | {"vector": vector_ND[number]} for number, row in enumerate(plain)]


def sorted_by_cosine(rows: Iterable[dict[str, Any]], vector_D: np.ndarray) -> list[dict[str, Any]]:
    """Return rows sorted by the cosine of their vectors with a vector, ties by id."""
    return sorted(rows, key=lambda row: (-float(np.dot(row["vector"], vector_D)), row["id"]))


def to_passage(row: Mapping[str, Any]) -> Passage:
    """Return the passage of a row with the columns ``SHOWN`` or ``BARE``."""
    return Passage(**{name: row[name] for name in BARE}, metadata=to_metadata(row))


def to_metadata(row: Mapping[str, Any]) -> Mapping[str, Value]:
    """Return the metadata of a row; ``LEFT_OUT`` if the column was not read."""
    found: Mapping[str, Value] = json.loads(row["metadata"]) if "metadata" in row else LEFT_OUT
    return found


def own_metadata(row: Mapping[str, Any]) -> Mapping[str, Value]:
    """Return the metadata of a row's document, without the place of an image or a sound in it."""
    return given_metadata(to_metadata(row))


def unit(vector_D: np.ndarray, dimension: int, *, name: str) -> np.ndarray:
    """Return a vector as float32, scaled to length 1.

    Args:
        vector_D: vector of any length above 0.
        dimension: expected number of dimensions.
        name: name of the vector, for messages.

    Raises:
        InputError: if the vector has another shape, or its length is 0 or not finite.
    """
    vector_D = np.asarray(vector_D, dtype=np.float32)
    if vector_D.shape != (dimension,):
        raise InputError(f"{name} has the shape {vector_D.shape}; expected ({dimension},)")
    length = float(np.linalg.norm(vector_D))
    if not np.isfinite(length) or length == 0:
        raise InputError(f"{name} has the length {length}; expected a finite one above 0")
    return vector_D / np.float32(length)


def _digest(part: str, row: Mapping[str, Any]) -> bytes:
    if part == "vector":
        return xxh3_64_digest(np.ascontiguousarray(row["vector"], dtype="<f4").tobytes())
    if part == "text":
        return xxh3_64_digest(row["text"].encode())
    if part == "metadata":
        return xxh3_64_digest(json.dumps(_canonical(row["metadata"])).encode())
    return xxh3_64_digest(json.dumps([row[name] for name in FIELDS]).encode())


def _canonical(metadata: str) -> list[Any]:
    """Return metadata in canonical form: names sorted, equal numbers written alike."""
    try:
        found = json.loads(metadata)
        return sorted([name, _by_value(value)] for name, value in found.items())
    except (ValueError, AttributeError, OverflowError):
        return [metadata]


def _by_value(value: object) -> str:
    if isinstance(value, list):
        return repr([_by_value(each) for each in value])
    if isinstance(value, int) and not isinstance(value, bool) and value == float(value):
        value = float(value)
    return repr(value)


def _fits_id(row: Mapping[str, Any]) -> bool:
    """Return whether an id that is a hash of the content matches this content."""
    name = row["id"]
    if "text" not in row or len(name) != _ID or set(name) - set("0123456789abcdef"):
        return True
    embedded = f"{row['title']} {row['text']}".strip()
    return bool(name == passage_id(row["document_id"], embedded, row["number"]))


def has_checks(table: pa.Schema) -> bool:
    """Return whether the rows of a table have checksums; those of version 1 have none."""
    return COLUMN in table.names
