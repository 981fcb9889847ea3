"""Conversion between KV blocks and the records of a store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gritlm.errors import CacheMismatchError, InputError
from gritlm.lm.kv.block import KVBlock
from gritlm.rag.kvstore import codec, record
from gritlm.rag.kvstore.codec import FLOATS, NAMES
from gritlm.rag.kvstore.record import RecordHeader

if TYPE_CHECKING:
    from gritlm.rag.identity import ModelIdentity


def to_record(
    key: bytes, block: KVBlock, *, maker: ModelIdentity, storage: str
) -> tuple[RecordHeader, memoryview]:
    """Return header and payload of a block that was prefilled at positions 0..T-1.

    Args:
        key: 32-byte key of the block.
        block: KV block as the model returned it.
        maker: identity of the store's model.
        storage: number format on disk.

    Raises:
        InputError: if the block is empty, was moved, cut or joined, has values that this number
            format cannot represent, or belongs to another key.
        CacheMismatchError: if the block was made by another model.
    """
    if block.model != maker.model:
        raise CacheMismatchError(
            f"this block was made by model {block.model}, this store keeps blocks of {maker.model}"
        )
    place_T = torch.arange(block.tokens)
    as_read = torch.equal(block.stored_T, place_T) and torch.equal(block.position_T, place_T)
    if not block.tokens or not as_read:
        raise InputError(
            f"{block!r} is not a text as it was read, at positions 0, 1, 2, ...; put the block "
            "that the model returned, before it is moved, cut or joined"
        )
    if block.dtype not in NAMES:
        raise InputError(f"the block has dtype {block.dtype}; expected {', '.join(NAMES.values())}")
    ids = block.token_ids.tolist()
    if key != maker.key(ids, causal=block.causal, storage=storage):
        raise InputError(
            f"key {key.hex()[:16]} is not the name of this block; use store.key(ids, causal=...)"
        )
    raw_LB = codec.encode(block.data, storage)
    layers, _, heads, tokens, dim = block.data.shape
    header = record.describe(
        key,
        raw_LB,
        shape=(layers, heads, tokens, dim),
        dtype=NAMES[block.dtype],
        storage=storage,
        causal=block.causal,
        token_ids=ids,
    )
    return header, raw_LB.numpy().data.cast("B")


def from_record(header: RecordHeader, raw_LB: Tensor, maker: ModelIdentity) -> KVBlock:
    """Return the KV block of a record.

    Its data is a view of the payload if the store keeps the model's own number format.
    """
    place_T = torch.arange(header.shape[2])
    return KVBlock(
        data=codec.decode(raw_LB, header.shape, header.storage, FLOATS[header.dtype]),
        token_ids=torch.from_numpy(header.token_ids.astype("int64")),
        stored_T=place_T,
        position_T=place_T,
        causal=header.causal,
        model=maker.model,
        rope=maker.rope,
    )
