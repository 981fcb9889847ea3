"""Vectors in fewer bits, as sentence-transformers' ``quantize_embeddings`` makes them."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from gritlm.errors import choice

log = logging.getLogger(__name__)

PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")
_FEW = 100


def to_precision(vectors_ND: NDArray[np.float32], precision: str) -> NDArray[np.generic]:
    """float32 (N, D) -> the same, int8 / uint8 (N, D), or bits packed into (N, D / 8).

    int8 and uint8 stretch each dimension from its smallest to its largest value among these
    vectors, so only vectors of one call can be compared with each other.

    Raises:
        InputError: for an unknown precision.
    """
    choice(precision, PRECISIONS, name="precision")
    if precision == "float32" or not len(vectors_ND):
        return vectors_ND
    if precision.endswith("binary"):
        bits = np.packbits(vectors_ND > 0, axis=-1)
        return bits if precision == "ubinary" else (bits.astype(np.int16) - 128).astype(np.int8)
    if len(vectors_ND) < _FEW:
        log.warning(
            "%s ranges are taken from only %d vectors; %d or more give stable ones",
            precision, len(vectors_ND), _FEW,
        )  # fmt: skip
    low_D, high_D = vectors_ND.min(axis=0), vectors_ND.max(axis=0)
    step_D = (high_D - low_D) / 255
    level_ND = (vectors_ND - low_D) / np.where(step_D == 0, 1, step_D)
    return level_ND.astype(np.uint8) if precision == "uint8" else (level_ND - 128).astype(np.int8)
