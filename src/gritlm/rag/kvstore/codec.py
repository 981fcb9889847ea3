"""KV blocks as records, and their number formats: floats, and int8 and int4 with group scales.

Shapes: L layers, K key/value heads, T tokens, E head dimension, N = 2 K T rows of a layer,
G groups of a row. Each layer is one run of B bytes: first the scales, then the codes, so that one
layer can be read without the others.

Largest error of a value x (``largest`` is the largest absolute value of its group, ``range`` the
largest minus the smallest; the cast back to the model's number format adds to it):

=========  ======================================
bfloat16   ``|x| / 256``
float16    ``|x| / 2048 + 2**-25``
int8       ``largest / 253``
int4       ``range / 29 + (range + |smallest|) / 1000``
=========  ======================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gritlm.errors import CacheMismatchError, InputError
from gritlm.lm.kv.block import KVBlock
from gritlm.rag.kvstore import record
from gritlm.rag.kvstore.record import (
    FLOATS,
    GROUPS,
    NAMES,
    SCALE_BYTES,
    RecordHeader,
    Shape,
    block_key,
    group_size,
    layer_nbytes,
)

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
    if key != block_key(maker, ids, causal=block.causal, storage=storage):
        raise InputError(
            f"key {key.hex()[:16]} is not the name of this block; use store.key(ids, causal=...)"
        )
    raw_LB = encode(block.data, storage)
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
    if block.end is not None:
        header = header.ending_at(block.end)
    return header, raw_LB.numpy().data.cast("B")


def from_record(header: RecordHeader, raw_LB: Tensor, maker: ModelIdentity) -> KVBlock:
    """Return the KV block of a record.

    Its data is a view of the payload if the store keeps the model's own number format.
    """
    place_T = torch.arange(header.shape[2])
    block = KVBlock(
        data=decode(raw_LB, header.shape, header.storage, FLOATS[header.dtype]),
        token_ids=torch.from_numpy(header.token_ids.astype("int64")),
        stored_T=place_T,
        position_T=place_T,
        causal=header.causal,
        model=maker.model,
        rope=maker.rope,
    )
    return block.ending_at(header.end)


def encode(data: Tensor, storage: str) -> Tensor:
    """Encode keys and values (L, 2, K, T, E) on any device as bytes (L, B) on the CPU.

    Raises:
        InputError: if values are not finite or too large for this number format, or if the head
            dimension is odd in int4.
    """
    data = data.detach().cpu()
    layers, _, heads, tokens, dim = data.shape
    if storage in FLOATS:
        cast = data.to(FLOATS[storage]).contiguous()
        _require_finite(cast, storage)
        return cast.reshape(layers, -1).view(torch.uint8)
    if storage == "int4" and dim % 2:
        raise InputError(f"int4 keeps two values in a byte, a head of {dim} is odd; use int8")
    size = group_size(dim, GROUPS[storage])
    x_LNGg = data.float().reshape(layers, 2 * heads * tokens, dim // size, size)
    scales, codes = _int8(x_LNGg) if storage == "int8" else _int4(x_LNGg)
    _require_finite(scales, storage)
    parts = [part.reshape(layers, -1).view(torch.uint8) for part in (scales, codes)]
    filled = sum(part.shape[1] for part in parts)
    shape = (layers, heads, tokens, dim)
    parts.append(torch.zeros(layers, layer_nbytes(shape, storage) - filled, dtype=torch.uint8))
    return torch.cat(parts, dim=1)


def decode(raw_LB: Tensor, shape: Shape, storage: str, dtype: torch.dtype) -> Tensor:
    """Decode bytes (L, B) into keys and values (L, 2, K, T, E) of a dtype.

    The result is a view of the bytes if the stored format is ``dtype`` itself.
    """
    layers, heads, tokens, dim = shape
    full = (layers, 2, heads, tokens, dim)
    if storage in FLOATS:
        return raw_LB.view(FLOATS[storage]).view(full).to(dtype)
    rows = 2 * heads * tokens
    size = group_size(dim, GROUPS[storage])
    read = _from_int8 if storage == "int8" else _from_int4
    data = torch.empty(full, dtype=dtype)
    for layer_2KTE, raw_B in zip(data, raw_LB, strict=True):  # a layer at a time: small temporaries
        layer_2KTE.copy_(read(raw_B, rows, dim // size, size).view_as(layer_2KTE))
    return data


def _from_int8(raw_B: Tensor, rows: int, groups: int, size: int) -> Tensor:
    border = rows * groups * SCALE_BYTES
    scale_NG1 = raw_B[:border].view(torch.float32).view(rows, groups, 1)
    codes = raw_B[border : border + rows * groups * size].view(torch.int8)
    return codes.view(rows, groups, size).float().mul_(scale_NG1)


def _from_int4(raw_B: Tensor, rows: int, groups: int, size: int) -> Tensor:
    border = rows * groups * SCALE_BYTES
    half = groups * size // 2
    scale_NG2 = raw_B[:border].view(torch.float16).view(rows, groups, 2).float()
    pair_Nh = raw_B[border : border + rows * half].view(rows, half)
    x_N2h = torch.empty(rows, 2, half)
    x_N2h[:, 0] = pair_Nh & 15
    x_N2h[:, 1] = pair_Nh >> 4
    x_NGg = x_N2h.view(rows, groups, size)
    return x_NGg.mul_(scale_NG2[..., :1]).add_(scale_NG2[..., 1:])


def _int8(x_LNGg: Tensor) -> tuple[Tensor, Tensor]:
    """Return float32 scales of the groups, and codes -127..127 around zero."""
    scale_LNG1 = x_LNGg.abs().amax(dim=-1, keepdim=True) / 127
    code_LNGg = (x_LNGg / _not_zero(scale_LNG1)).round_().clamp_(-127, 127)
    return scale_LNG1, code_LNGg.to(torch.int8)


def _int4(x_LNGg: Tensor) -> tuple[Tensor, Tensor]:
    """Return float16 scales and minima of the groups, and codes 0..15 above the minimum.

    Dimension i shares a byte with dimension i + E / 2.
    """
    low_LNG1 = x_LNGg.amin(dim=-1, keepdim=True).half()
    high_LNG1 = x_LNGg.amax(dim=-1, keepdim=True)
    scale_LNG1 = ((high_LNG1 - low_LNG1.float()) / 15).half()
    code_LNGg = (x_LNGg - low_LNG1.float()) / _not_zero(scale_LNG1.float())
    code_LN2h = code_LNGg.round_().clamp_(0, 15).to(torch.uint8).flatten(2).unflatten(2, (2, -1))
    return torch.cat((scale_LNG1, low_LNG1), dim=-1), code_LN2h[:, :, 0] | code_LN2h[:, :, 1] << 4


def _not_zero(scale: Tensor) -> Tensor:
    return torch.where(scale == 0, 1.0, scale)


def _require_finite(values: Tensor, storage: str) -> None:
    if not torch.isfinite(values).all():
        raise InputError(
            f"the block holds values that are not finite, or too large for {storage}, and was not "
            "stored; use storage='bfloat16' if the model's output is right"
        )
