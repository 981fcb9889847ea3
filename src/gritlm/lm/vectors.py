"""Embedding vectors: pooling of hidden states, normalisation, truncation, quantisation.

Shapes: B texts, L positions, D hidden size, N vectors. ``mask_BL`` is 1 where a token is pooled;
every row has at least one such token. Pooled vectors are float32, for states of any dtype
(GritLM paper section 3; reference code, ``GritLM.pooling``). Quantised values equal those of
``quantize_embeddings`` in sentence-transformers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gritlm.errors import InputError, at_least_one, choice

log = logging.getLogger(__name__)

PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")
_FEW = 100  # vectors from which int8 and uint8 take stable ranges

Pooling = Callable[[Tensor, Tensor], Tensor]


def mean(hidden_BLD: Tensor, mask_BL: Tensor) -> Tensor:
    """Return the mean (B, D) over the pooled tokens."""
    weight_BL = mask_BL.to(torch.float32)
    return _weighted(hidden_BLD, weight_BL)


def weightedmean(hidden_BLD: Tensor, mask_BL: Tensor) -> Tensor:
    """Return the mean (B, D) over the pooled tokens with weights 1, 2, 3, ... (SGPT, eq. 2)."""
    weight_BL = mask_BL.to(torch.float32)
    return _weighted(hidden_BLD, weight_BL * weight_BL.cumsum(dim=1))


def lasttoken(hidden_BLD: Tensor, mask_BL: Tensor) -> Tensor:
    """Return the state (B, D) of the last pooled token."""
    position_L = torch.arange(mask_BL.shape[1], device=mask_BL.device)
    last_B = (mask_BL.to(torch.long) * position_L).argmax(dim=1)
    row_B = torch.arange(len(last_B), device=mask_BL.device)
    return hidden_BLD[row_B, last_B].to(torch.float32)


def cls(hidden_BLD: Tensor, mask_BL: Tensor) -> Tensor:
    """Return the state (B, D) at position 0, independent of the mask."""
    del mask_BL
    return hidden_BLD[:, 0].to(torch.float32)


def _weighted(hidden_BLD: Tensor, weight_BL: Tensor) -> Tensor:
    total_BD = torch.einsum("bld,bl->bd", hidden_BLD.to(torch.float32), weight_BL)
    return total_BD / weight_BL.sum(dim=1, keepdim=True)


def normalise(vector_BD: Tensor) -> Tensor:
    """Return each vector divided by its length (at least 1e-12), in float32."""
    return torch.nn.functional.normalize(vector_BD.to(torch.float32), dim=-1)


POOLING: dict[str, Pooling] = {
    "mean": mean,
    "weightedmean": weightedmean,
    "lasttoken": lasttoken,
    "cls": cls,
}


def as_rows(vectors: Any) -> Tensor:
    """Return vectors (N, D) or a vector (D,) as a tensor (N, D) in float32 on the CPU."""
    rows = vectors if isinstance(vectors, Tensor) else torch.as_tensor(np.asarray(vectors))
    return torch.atleast_2d(rows.detach().to("cpu", torch.float32))


def truncated(vectors_ND: Tensor, size: int, *, normalised: bool) -> Tensor:
    """Return the first ``size`` dimensions of vectors.

    Args:
        vectors_ND: the vectors.
        size: number of dimensions to keep.
        normalised: whether the vectors have length 1; the result then has it too.

    Raises:
        InputError: for a size below 1 or above D.
    """
    if at_least_one(size, name="truncate_dim") > vectors_ND.shape[1]:
        raise InputError(f"truncate_dim={size}; expected 1 to {vectors_ND.shape[1]}")
    cut_ND = vectors_ND[:, :size]
    return normalise(cut_ND) if normalised else cut_ND


def handed_out(vectors_ND: Tensor, *, precision: str, device: torch.device | None) -> Any:
    """Return vectors as a tensor or a numpy array, in a precision.

    Args:
        vectors_ND: the vectors.
        precision: an item of :data:`PRECISIONS`.
        device: device of the tensor; None returns a numpy array (never bfloat16).

    Raises:
        InputError: for an unknown precision.
    """
    choice(precision, PRECISIONS, name="precision")
    if device is not None and precision == "float32":
        return vectors_ND.to(device)
    array: NDArray[Any] = to_precision(vectors_ND.to(torch.float32).numpy(), precision)
    return array if device is None else torch.from_numpy(np.ascontiguousarray(array))


def to_precision(vectors_ND: NDArray[np.float32], precision: str) -> NDArray[np.generic]:
    """Quantise vectors (N, D) to int8 or uint8 (N, D), or to bits packed into (N, D / 8).

    int8 and uint8 scale each dimension between its minimum and its maximum over these vectors, so
    only vectors of the same call can be compared.

    Args:
        vectors_ND: vectors in float32.
        precision: an item of :data:`PRECISIONS`; ``float32`` returns the vectors unchanged.
    """
    if precision == "float32":
        return vectors_ND
    if precision.endswith("binary"):
        bits = np.packbits(vectors_ND > 0, axis=-1)
        return bits if precision == "ubinary" else (bits.astype(np.int16) - 128).astype(np.int8)
    if not len(vectors_ND):
        return vectors_ND.astype(precision)
    if len(vectors_ND) < _FEW:
        log.warning(
            "%s ranges are taken from only %d vectors; %d or more give stable ones",
            precision,
            len(vectors_ND),
            _FEW,
        )
    return scaled(vectors_ND, vectors_ND.min(axis=0), vectors_ND.max(axis=0), precision)


def scaled(
    vectors_ND: NDArray[np.float32],
    low_D: NDArray[np.float32],
    high_D: NDArray[np.float32],
    precision: str,
) -> NDArray[np.generic]:
    """Quantise vectors (N, D) to 256 levels of each dimension.

    Args:
        vectors_ND: vectors in float32.
        low_D: lowest value of each dimension.
        high_D: highest value of each dimension.
        precision: ``int8`` or ``uint8``.
    """
    step_D = (high_D - low_D) / 255
    level_ND = (vectors_ND - low_D) / np.where(step_D == 0, 1, step_D)
    return level_ND.astype(np.uint8) if precision == "uint8" else (level_ND - 128).astype(np.int8)
