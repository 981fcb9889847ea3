"""Objects of the shared tier: their names, the manifest of a model, and the checks of a block."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from blake3 import blake3
from torch import Tensor

from gritlm.rag.kvstore import record
from gritlm.rag.kvstore.errors import DamagedRecordError
from gritlm.rag.kvstore.record import FLOATS, KEY_VERSION, RecordHeader, aligned, block_key

if TYPE_CHECKING:
    from gritlm.rag.identity import ModelIdentity

_MANIFEST = "manifest.json"


def folder_of(maker: ModelIdentity) -> str:
    """Return the folder of a model's blocks: the hash of its identity."""
    return blake3(json.dumps([maker.model, maker.digest]).encode()).hexdigest()[:32]


def manifest_name(maker: ModelIdentity) -> str:
    """Return the name of the manifest of a model's blocks."""
    return f"{folder_of(maker)}/{_MANIFEST}"


def object_name(maker: ModelIdentity, key: bytes) -> str:
    """Return the name of a block."""
    return f"{folder_of(maker)}/{key.hex()[:2]}/{key.hex()}.kv"


def manifest(maker: ModelIdentity) -> bytes:
    """Return the manifest of a model's blocks."""
    content = {**_identity(maker), "name": maker.name}
    return json.dumps(content, indent=1).encode() + b"\n"


def is_manifest(content: bytes, maker: ModelIdentity) -> bool:
    """Return whether a manifest is that of a model."""
    try:
        found = json.loads(content)
    except ValueError:
        return False
    expected = _identity(maker)
    return isinstance(found, dict) and {name: found.get(name) for name in expected} == expected


def _identity(maker: ModelIdentity) -> dict[str, str | int]:
    return {
        "record": record.VERSION,
        "key": KEY_VERSION,
        "model": maker.model,
        "digest": maker.digest,
    }


def pack(header: RecordHeader, payload: memoryview) -> bytes:
    """Return the object of a block: the record of a segment without the zeros at its end."""
    return record.pack(header.at(0)) + payload


def object_nbytes(header: RecordHeader) -> int:
    """Return the bytes of the object of a block."""
    return aligned(header.nbytes) + header.payload


def unpack(
    content: bytes, key: bytes, maker: ModelIdentity, storage: str
) -> tuple[RecordHeader, Tensor]:
    """Return header and payload (L, B) of an object after comparing it with its key.

    Args:
        content: content of the object.
        key: key of the block that was asked for.
        maker: identity of the model.
        storage: number format of the store.

    Raises:
        DamagedRecordError: for an object that is not the block of this key, whole and unchanged.
    """
    nbytes = record.length(content)
    header = record.unpack(content[:nbytes])
    ids: Sequence[int] = header.token_ids.tolist()
    if header.key != key or header.storage != storage:
        raise DamagedRecordError("the object holds another block")
    if key != block_key(maker, ids, causal=header.causal, storage=storage):
        raise DamagedRecordError("the block was made by another model, or from other tokens")
    if not _fits(header, maker):
        raise DamagedRecordError(f"the block has the shape {header.shape}")
    if len(content) != object_nbytes(header):
        raise DamagedRecordError(
            f"the object has {len(content)} bytes, its block {object_nbytes(header)}"
        )
    payload = bytearray(memoryview(content)[aligned(nbytes) :])  # torch requires writable memory
    if blake3(payload).digest() != header.digest:
        raise DamagedRecordError("the checksum of the payload does not fit")
    return header, torch.frombuffer(payload, dtype=torch.uint8).view(header.shape[0], -1)


def _fits(header: RecordHeader, maker: ModelIdentity) -> bool:
    """Return whether the shape of a block is one of this model's."""
    layers, heads, tokens, dim = header.shape
    nbytes = 2 * layers * heads * dim * FLOATS[header.dtype].itemsize
    return tokens == len(header.token_ids) > 0 and nbytes == maker.kv_bytes_per_token
