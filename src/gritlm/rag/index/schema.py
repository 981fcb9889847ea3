"""Schema of an index's table, and the identity of its model. Shapes: N passages, D of a vector."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from gritlm.errors import InputError
from gritlm.rag.identity import ModelIdentity
from gritlm.rag.index import passage_rows
from gritlm.rag.index.passage_rows import COLUMN, PARTS, SHOWN, SIZE, unit
from gritlm.rag.ingest.metadata import normalise_metadata
from gritlm.rag.kvstore.errors import OtherModelError
from gritlm.rag.types import Passage

VERSION = 2  # version of the columns
READABLE = (1, 2)  # 1: without checksums; its first change rewrites it
KEY = b"gritlm"
CHECK = pa.field(COLUMN, pa.binary(SIZE * len(PARTS)), nullable=False)


@dataclass(frozen=True)
class TableIdentity:
    """Identity of the model and format of a table, stored in its schema."""

    version: int
    model: str
    digest: str
    dimension: int
    name: str

    def __str__(self) -> str:
        return (
            f"{self.name} (weights {self.model[:12]}, tokenizer and templates {self.digest[:12]}, "
            f"{self.dimension} dimensions, format {self.version})"
        )


def made_by(maker: ModelIdentity) -> TableIdentity:
    """Return the identity of a new table of a model."""
    return TableIdentity(VERSION, maker.model, maker.digest, maker.dimension, maker.name)


def table_schema(maker: ModelIdentity) -> pa.Schema:
    """Return the schema of a new table of a model."""
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("document_id", pa.string(), nullable=False),
            pa.field("title", pa.string(), nullable=False),
            pa.field("text", pa.string(), nullable=False),
            pa.field("number", pa.int64(), nullable=False),
            pa.field("start", pa.int64(), nullable=False),
            pa.field("end", pa.int64(), nullable=False),
            pa.field("metadata", pa.json_(), nullable=False),
            pa.field("passages", pa.int64(), nullable=False),  # of the document
            pa.field("content", pa.string(), nullable=False),  # hash of the document's
            pa.field("vector", pa.list_(pa.float32(), maker.dimension), nullable=False),
            CHECK,
        ],
        metadata={KEY: json.dumps(asdict(made_by(maker))).encode()},
    )


def current(found: pa.Schema) -> pa.Schema:
    """Return the schema of a table in the current version of the columns."""
    identity = replace(TableIdentity(**json.loads(found.metadata[KEY])), version=VERSION)
    fields = [field for field in found if field.name != COLUMN]
    return pa.schema([*fields, CHECK], metadata={KEY: json.dumps(asdict(identity)).encode()})


def check_maker(schema: pa.Schema, maker: ModelIdentity | None, *, place: str) -> None:
    """Refuse a table that was made by another model.

    Args:
        schema: schema of the table.
        maker: identity of the model; None to check the version alone.
        place: folder or address of the index, for messages.

    Raises:
        InputError: if the table has another model, version or dimension, or was not made by
            gritlm.
    """
    try:
        found = TableIdentity(**json.loads((schema.metadata or {})[KEY]))
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"{place} holds a table that gritlm did not make; index into another folder"
        ) from None
    check_identity(found, maker, place=place)


def check_identity(found: TableIdentity, maker: ModelIdentity | None, *, place: str) -> None:
    """Refuse a table with the identity of another model.

    Args:
        found: identity of the table.
        maker: identity of the model; None to check the version alone.
        place: folder or address of the index, for messages.

    Raises:
        InputError: if the table has another model, version or dimension.
    """
    expected = replace(found, version=VERSION) if maker is None else made_by(maker)
    if found.version in READABLE:
        expected = replace(expected, version=found.version)
    if _identity(found) != _identity(expected):
        raise OtherModelError(
            f"{place} was made by {found}, not by {expected}; open it with the model that made it, "
            "or index the documents again into another folder"
        )


def to_arrow(
    rows: Sequence[tuple[Passage, np.ndarray]], contents: Mapping[str, str], maker: ModelIdentity
) -> pa.Table:
    """Return passages and their vectors (D,) as rows of a table.

    Raises:
        InputError: if passages are not complete documents of ``contents``, or a vector has
            another dimension or no length.
    """
    counts = _counts([passage for passage, _ in rows], contents)
    vector_ND = _normalised(rows, maker.dimension)
    columns: dict[str, Any] = {
        name: [getattr(passage, name) for passage, _ in rows]
        for name in SHOWN
        if name != "metadata"
    }
    documents = columns["document_id"]
    columns["metadata"] = [json.dumps(normalise_metadata(passage.metadata)) for passage, _ in rows]
    columns["passages"] = [counts[name] for name in documents]
    columns["content"] = [contents[name] for name in documents]
    columns["vector"] = pa.FixedSizeListArray.from_arrays(
        pa.array(vector_ND.reshape(-1)), maker.dimension
    )
    schema = table_schema(maker)
    plain = schema.remove(schema.get_field_index(COLUMN))
    arrays = [
        columns[field.name] if field.name == "vector" else pa.array(columns[field.name], field.type)
        for field in plain
    ]
    return passage_rows.sealed(pa.Table.from_arrays(arrays, schema=plain), schema)


def _counts(passages: Sequence[Passage], contents: Mapping[str, str]) -> dict[str, int]:
    """Return the number of passages of each document.

    Documents must be complete, because rows that are missing here are deleted from the table.
    """
    numbers: dict[str, list[int]] = {}
    for passage in passages:
        if passage.document_id not in contents:
            raise InputError(f"passage of {passage.document_id!r}, which 'contents' does not name")
        numbers.setdefault(passage.document_id, []).append(passage.number)
    for name, found in numbers.items():
        if sorted(found) != list(range(len(found))):
            raise InputError(
                f"document {name!r} has the passages {sorted(found)[:10]}; expected all from 0, "
                "each once, in one call"
            )
    return {name: len(found) for name, found in numbers.items()}


def _normalised(rows: Sequence[tuple[Passage, np.ndarray]], dimension: int) -> np.ndarray:
    vector_ND = np.zeros((len(rows), dimension), dtype=np.float32)
    for row, (passage, vector_D) in enumerate(rows):
        vector_ND[row] = unit(vector_D, dimension, name=f"vector of passage {passage.id!r}")
    return vector_ND


def _identity(identity: TableIdentity) -> tuple[int, str, str, int]:
    """Return all but the name: the same weights may be in another folder."""
    return identity.version, identity.model, identity.digest, identity.dimension
