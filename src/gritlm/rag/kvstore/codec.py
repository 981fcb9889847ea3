"""Number formats of KV blocks on disk: float formats, and int8 and int4 with group scales.

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

import torch
from torch import Tensor

from gritlm.errors import InputError

Shape = tuple[int, int, int, int]  # L, K, T, E

FLOATS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
NAMES = {dtype: name for name, dtype in FLOATS.items()}
GROUPS = {"int8": 64, "int4": 32}
STORAGES = (*FLOATS, *GROUPS)

_SCALE_BYTES = 4  # of a group: one float32 (int8), or scale and smallest value in float16 (int4)
_ALIGN = 16  # of a layer, so that its scales can be viewed without a copy


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
    scales = rows * (dim // group_size(dim, GROUPS[storage])) * _SCALE_BYTES
    codes = rows * dim // (1 if storage == "int8" else 2)
    return -(-(scales + codes) // _ALIGN) * _ALIGN


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
    border = rows * groups * _SCALE_BYTES
    scale_NG1 = raw_B[:border].view(torch.float32).view(rows, groups, 1)
    codes = raw_B[border : border + rows * groups * size].view(torch.int8)
    return codes.view(rows, groups, size).float().mul_(scale_NG1)


def _from_int4(raw_B: Tensor, rows: int, groups: int, size: int) -> Tensor:
    border = rows * groups * _SCALE_BYTES
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
