"""Points of a Qdrant collection: passages, the manifest, and filters. Shapes: D of a vector."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
from blake3 import blake3
from qdrant_client import QdrantClient, models

from gritlm.rag.index import passage_rows
from gritlm.rag.index.databases import terms
from gritlm.rag.index.passage_rows import COLUMN, FIELDS
from gritlm.rag.index.passage_table import Row, Wanted
from gritlm.rag.index.schema import TableIdentity

VECTOR = "vector"
MANIFEST = str(UUID(int=0))
CHANGE = "change"  # number of the change that wrote a passage; the manifest has none
TERMS = "terms"
NAMES = "names"
TEXT_KEY = "text_key"
# fields of the filters, with the indices that a server builds for them
INDEXED = {
    "id": models.PayloadSchemaType.KEYWORD,
    "document_id": models.PayloadSchemaType.KEYWORD,
    "title": models.PayloadSchemaType.KEYWORD,
    "number": models.PayloadSchemaType.INTEGER,
    CHANGE: models.PayloadSchemaType.INTEGER,
    TERMS: models.PayloadSchemaType.KEYWORD,
    NAMES: models.PayloadSchemaType.KEYWORD,
    TEXT_KEY: models.PayloadSchemaType.KEYWORD,
}


@dataclass(frozen=True)
class PendingChange:
    """Change in progress.

    Attributes:
        number: number of the change, which its points have.
        documents: ids of the documents whose older points it removes.
        committed: its points are visible, and older ones of its documents are not.
    """

    number: int
    documents: tuple[str, ...]
    committed: bool = False


@dataclass(frozen=True)
class CollectionManifest:
    """State of a collection.

    Attributes:
        identity: identity of the model and format.
        version: number of committed changes.
        passages: number of visible passages.
        pending: change in progress.
    """

    identity: TableIdentity
    version: int = 0
    passages: int = 0
    pending: PendingChange | None = None

    def payload(self) -> dict[str, Any]:
        """Return the payload of the manifest's point."""
        return {"gritlm": json.dumps(asdict(self))}

    @classmethod
    def from_payload(cls, payload: dict[str, Any]) -> CollectionManifest:
        """Return the manifest in a payload."""
        found = json.loads(payload["gritlm"])
        pending = found["pending"]
        return cls(
            TableIdentity(**found["identity"]),
            found["version"],
            found["passages"],
            pending
            and PendingChange(pending["number"], tuple(pending["documents"]), pending["committed"]),
        )


def create(client: QdrantClient, name: str, dimension: int, *, indexed: bool) -> None:
    """Create a collection, with indices of the fields unless it is embedded."""
    # Vectors have length 1, so the product is the cosine, and they are stored unchanged.
    size = models.VectorParams(size=dimension, distance=models.Distance.DOT)
    client.create_collection(name, vectors_config={VECTOR: size})
    for field, kind in INDEXED.items() if indexed else ():
        client.create_payload_index(name, field, field_schema=kind, wait=True)


def points(batch: pa.Table, change: int) -> list[models.PointStruct]:
    """Return sealed rows as points of a change."""
    return [_point(row, change) for row in passage_rows.rows_of(batch)]


def row(point: models.Record | models.ScoredPoint, columns: Sequence[str]) -> Row:
    """Return the columns of a point, and its checksums."""
    payload = point.payload or {}
    found = {name: payload[name] for name in columns if name != "vector"}
    found[COLUMN] = bytes.fromhex(payload[COLUMN])
    if "vector" in columns and isinstance(point.vector, dict):
        found["vector"] = np.asarray(point.vector[VECTOR], dtype=np.float32)
    return found


def payload_of(columns: Sequence[str]) -> list[str]:
    """Return the names of the payload's fields for these columns."""
    return [*(name for name in columns if name != "vector"), COLUMN]


def selection(wanted: Wanted, manifest: CollectionManifest) -> models.Filter:
    """Return the filter of a selection of visible passages."""
    must: list[models.Condition] = [_above(CHANGE, 0)]
    must_not: list[models.Condition] = []
    if wanted.first:
        must.append(_equals("number", 0))
    if wanted.documents is not None:
        must.append(_among("document_id", wanted.documents))
    if wanted.ids is not None:
        must.append(_among("id", wanted.ids))
    if wanted.where is not None:
        found = terms.conditions(wanted.where, database="Qdrant")
        must += [_fits(condition) for condition in found]
    if wanted.without:
        must_not.append(_among(TEXT_KEY, [_text_key(text) for text in wanted.without]))
    if manifest.pending is not None:
        hidden = outdated if manifest.pending.committed else written_by
        must_not.append(hidden(manifest.pending))
    return models.Filter(must=must, must_not=must_not)


def written_by(change: PendingChange) -> models.Filter:
    """Return the filter of the points of a change."""
    return models.Filter(must=[_equals(CHANGE, change.number)])


def outdated(change: PendingChange) -> models.Filter:
    """Return the filter of the points that a change removes."""
    return models.Filter(
        must=[
            _among("document_id", change.documents),
            models.FieldCondition(key=CHANGE, range=models.Range(lt=change.number)),
        ]
    )


def _point(row: Row, change: int) -> models.PointStruct:
    metadata = json.loads(row["metadata"])
    payload = {name: row[name] for name in (*FIELDS, "metadata", "text")}
    payload |= {
        COLUMN: row[COLUMN].hex(),
        CHANGE: change,
        TERMS: terms.terms_of(metadata),
        NAMES: list(metadata),
        TEXT_KEY: _text_key(row["text"]),
    }
    vector = {VECTOR: row["vector"].tolist()}
    return models.PointStruct(id=_point_id(row["id"], change), vector=vector, payload=payload)


def _point_id(passage: str, change: int) -> str:
    """Return an id that no other change uses, so that none overwrites points of another."""
    return str(UUID(bytes=blake3(json.dumps([passage, change]).encode()).digest()[:16]))


def _text_key(text: str) -> str:
    return blake3(text.encode()).hexdigest()[:32]


def _fits(condition: terms.Condition) -> models.Condition:
    if condition.is_column:
        return _among(condition.name, condition.allowed)
    fits = _among(TERMS, condition.allowed)
    if not condition.absent:
        return fits
    has_name = _among(NAMES, [condition.name])
    return models.Filter(should=[fits, models.Filter(must_not=[has_name])])


def _among(field: str, values: Sequence[str] | Any) -> models.FieldCondition:
    return models.FieldCondition(key=field, match=models.MatchAny(any=sorted(values)))


def _equals(field: str, value: int) -> models.FieldCondition:
    return models.FieldCondition(key=field, match=models.MatchValue(value=value))


def _above(field: str, value: int) -> models.FieldCondition:
    return models.FieldCondition(key=field, range=models.Range(gt=value))
