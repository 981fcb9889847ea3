"""Record of a segment: a header with checksums, then the payload; its number formats and location.

``header | zeros up to 4 KiB | payload, layer by layer | zeros up to 4 KiB``. The header has the
key, shape, number formats and token ids, and checksums: xxh3-64 of each layer (fast, compared on
reads), blake3 of the payload (compared by ``verify``), and xxh3-64 of the header itself.

Version 1 has token ids of 32 bits. Version 2 is for blocks with images or sound: their placeholders
have negative ids of 64 bits, and the position after the last token may not be the number of tokens.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from blake3 import blake3
from torch import Tensor
from xxhash import xxh3_64_intdigest

from gritlm.rag.kvstore.errors import DamagedRecordError

if TYPE_CHECKING:
    from gritlm.rag.identity import ModelIdentity

Shape = tuple[int, int, int, int]  # L, K, T, E

VERSION = 1
MEDIA_VERSION = 2  # of records of blocks with images or sound
KEY_VERSION = 1  # of block contents; another version gives other keys
ALIGN = 4096
KEY_BYTES = 32

FLOATS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
NAMES = {dtype: name for name, dtype in FLOATS.items()}
GROUPS = {"int8": 64, "int4": 32}  # most dimensions that share a scale
STORAGES = (*FLOATS, *GROUPS)  # a header has the position in this list
SCALE_BYTES = 4  # of a group: one float32 (int8), or scale and smallest value in float16 (int4)

_LAYER_ALIGN = 16  # of a layer, so that its scales can be viewed without a copy

_MAGIC = b"gritlmKV"
# magic, version, storage, number format, causal, length of the header, commit, bytes of payload,
# L K T E, key, blake3 of the payload
_FIXED = struct.Struct("<8sHBBB3xIQQ4I32s32s")
_END = struct.Struct("<Q")  # of version 2: the position after the last token
_CHECK = struct.Struct("<Q")
_ID_TYPES = {VERSION: "<u4", MEDIA_VERSION: "<i8"}
_DTYPES = tuple(FLOATS)


def block_key(maker: ModelIdentity, ids: Sequence[int], *, causal: bool, storage: str) -> bytes:
    """Return the key of a KV block, 32 bytes.

    Args:
        maker: identity of the model that computes the block.
        ids: token ids of the block.
        causal: kind of the block.
        storage: number format of the stored block.
    """
    kind = "causal" if causal else "bidirectional"
    about = json.dumps([KEY_VERSION, maker.model, maker.digest, kind, storage]).encode()
    return blake3(about + np.asarray(ids, dtype="<i8").tobytes()).digest()


@dataclass(frozen=True)
class RecordHeader:
    """Description of a record and checksums of its payload.

    Attributes:
        key: key of the block, 32 bytes.
        shape: layers, key/value heads, tokens, head dimension (L, K, T, E).
        dtype: name of the block's number format.
        storage: name of the number format on disk.
        causal: whether the tokens were read with causal attention.
        commit: number of the index commit that adds the record.
        layers: xxh3-64 of each layer's bytes.
        digest: blake3 of the payload.
        token_ids: (T,) uint32; int64 in a record of version 2.
        end: position after the last token.
    """

    key: bytes
    shape: Shape
    dtype: str
    storage: str
    causal: bool
    commit: int
    layers: tuple[int, ...]
    digest: bytes
    token_ids: np.ndarray
    end: int

    @property
    def version(self) -> int:
        """Version of the record: the first one that can hold the block."""
        return VERSION if self.token_ids.dtype == np.uint32 else MEDIA_VERSION

    @property
    def nbytes(self) -> int:
        """Bytes of the header without padding."""
        end = 0 if self.version == VERSION else _END.size
        return _FIXED.size + 8 * len(self.layers) + end + self.token_ids.nbytes + _CHECK.size

    @property
    def payload(self) -> int:
        """Bytes of the payload without padding."""
        return len(self.layers) * layer_nbytes(self.shape, self.storage)

    def ending_at(self, position: int) -> RecordHeader:
        """Return the header of a block with images, with the position after its last token."""
        return replace(self, end=position)

    def at(self, commit: int) -> RecordHeader:
        """Return the header with another commit number, for a copy of the record."""
        return replace(self, commit=commit)


def aligned(nbytes: int) -> int:
    """Return ``nbytes`` rounded up to a multiple of 4 KiB."""
    return -(-nbytes // ALIGN) * ALIGN


@dataclass(frozen=True)
class IndexEntry:
    """Location of a record, and its use.

    Attributes:
        segment: number of the segment file.
        offset: byte offset of the record.
        header: bytes of the header.
        payload: bytes of the payload.
        tokens: number of tokens.
        hits: number of fetches.
        cost: cost of recomputing the block; see :mod:`gritlm.rag.kvstore.eviction`.
        age: the store's clock at the last use.
        used: time of the last use, in seconds since 1970.
    """

    segment: int
    offset: int
    header: int
    payload: int
    tokens: int
    hits: int
    cost: float
    age: float
    used: float

    @property
    def nbytes(self) -> int:
        """Bytes on disk, with padding."""
        return aligned(self.header) + aligned(self.payload)

    @property
    def end(self) -> int:
        """Byte offset behind the record."""
        return self.offset + self.nbytes


def group_size(dim: int, largest: int) -> int:
    """Return the number of dimensions that share a scale.

    It is the largest divisor of ``dim`` up to ``largest``: in int8 64 for a head of 128
    dimensions, 40 for 80, 12 for 12.
    """
    return max(size for size in range(1, min(dim, largest) + 1) if dim % size == 0)


def layer_nbytes(shape: Shape, storage: str) -> int:
    """Return the bytes of one encoded layer."""
    _, heads, tokens, dim = shape
    rows = 2 * heads * tokens
    if storage in FLOATS:
        return rows * dim * FLOATS[storage].itemsize
    scales = rows * (dim // group_size(dim, GROUPS[storage])) * SCALE_BYTES
    codes = rows * dim // (1 if storage == "int8" else 2)
    return -(-(scales + codes) // _LAYER_ALIGN) * _LAYER_ALIGN


def describe(
    key: bytes,
    raw_LB: Tensor,
    *,
    shape: Shape,
    dtype: str,
    storage: str,
    causal: bool,
    token_ids: Sequence[int],
) -> RecordHeader:
    """Return the header of an encoded block with consecutive positions, with commit number 0.

    Args:
        key: key of the block, 32 bytes.
        raw_LB: encoded layers, uint8.
        shape: layers, key/value heads, tokens, head dimension (L, K, T, E).
        dtype: name of the block's number format.
        storage: name of the number format on disk.
        causal: whether the tokens were read with causal attention.
        token_ids: ids of the T tokens; negative ones are placeholders of images and sound.
    """
    layers = raw_LB.numpy()
    version = MEDIA_VERSION if any(number < 0 for number in token_ids) else VERSION
    return RecordHeader(
        key=key,
        shape=shape,
        dtype=dtype,
        storage=storage,
        causal=causal,
        commit=0,
        layers=tuple(xxh3_64_intdigest(layer) for layer in layers),
        digest=blake3(layers.data.cast("B")).digest(),
        token_ids=np.asarray(token_ids, dtype=_ID_TYPES[version]),
        end=len(token_ids),
    )


def pack(header: RecordHeader) -> bytes:
    """Return the bytes of a header, padded to the offset of the payload."""
    fixed = _FIXED.pack(
        _MAGIC,
        header.version,
        STORAGES.index(header.storage),
        _DTYPES.index(header.dtype),
        header.causal,
        header.nbytes,
        header.commit,
        header.payload,
        *header.shape,
        header.key,
        header.digest,
    )
    layers = np.asarray(header.layers, dtype="<u8").tobytes()
    end = b"" if header.version == VERSION else _END.pack(header.end)
    body = fixed + layers + end + header.token_ids.tobytes()
    body += _CHECK.pack(xxh3_64_intdigest(body))
    return body.ljust(aligned(len(body)), b"\0")


def begins(bytes_: bytes) -> bool:
    """Return whether the bytes start with the magic number of a record."""
    return bytes_[: len(_MAGIC)] == _MAGIC


def length(start: bytes) -> int:
    """Return the length in bytes of the header that starts with these bytes.

    Raises:
        DamagedRecordError: if the bytes are too few or do not start a header.
    """
    if len(start) < _FIXED.size or not begins(start):
        raise DamagedRecordError("no record begins here")
    return int(_FIXED.unpack_from(start)[5])


def unpack(body: bytes) -> RecordHeader:
    """Return the header in these bytes, which must be as long as :func:`length` returns.

    Raises:
        DamagedRecordError: if the bytes are not the header that was written.
    """
    if length(body) != len(body) or len(body) <= _FIXED.size + _CHECK.size:
        raise DamagedRecordError("the header has another length")
    if _CHECK.unpack_from(body, len(body) - _CHECK.size)[0] != xxh3_64_intdigest(
        body[: -_CHECK.size]
    ):
        raise DamagedRecordError("the checksum of the header does not fit")
    _, version, storage, dtype, causal, nbytes, commit, payload, *rest = _FIXED.unpack_from(body)
    if version not in _ID_TYPES:
        known = " and ".join(map(str, _ID_TYPES))
        raise DamagedRecordError(f"the record has version {version}, this gritlm reads {known}")
    shape = (rest[0], rest[1], rest[2], rest[3])
    border = _FIXED.size + 8 * shape[0]
    end = shape[2]
    first = border
    if version == MEDIA_VERSION:
        (end,) = _END.unpack_from(body, border)
        first += _END.size
    header = RecordHeader(
        key=rest[4],
        shape=shape,
        dtype=_DTYPES[dtype],
        storage=STORAGES[storage],
        causal=bool(causal),
        commit=commit,
        layers=tuple(np.frombuffer(body[_FIXED.size : border], dtype="<u8").tolist()),
        digest=rest[5],
        token_ids=np.frombuffer(body[first : -_CHECK.size], dtype=_ID_TYPES[version]),
        end=end,
    )
    if (header.nbytes, header.payload) != (nbytes, payload):
        raise DamagedRecordError("the header does not fit its shape")
    return header


def damaged_layer(raw_LB: Tensor, header: RecordHeader) -> int | None:
    """Return the number of the first layer whose checksum does not match; None if all match."""
    for number, (layer, expected) in enumerate(zip(raw_LB.numpy(), header.layers, strict=True)):
        if xxh3_64_intdigest(layer) != expected:
            return number
    return None
