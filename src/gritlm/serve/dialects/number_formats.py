"""Vectors in the number formats of embedding APIs. Shapes: N texts, D dimensions."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import numpy as np

from gritlm.serve.api.embeddings import Vectors


def in_format(vectors_ND: Vectors, name: str) -> Any:
    """Return vectors in a number format, as values for JSON.

    Args:
        vectors_ND: the vectors (N, D).
        name: ``float``; ``int8`` and ``uint8``, in which the largest component of each vector is
            127 away from zero, which is 0 and 128; ``binary`` and ``ubinary``, the signs of eight
            components in each signed or unsigned byte; or ``base64`` of little-endian float32.
    """
    if name == "float":
        return np.ascontiguousarray(vectors_ND, dtype=np.float32)
    if name == "base64":
        return [b64encode(row_D.tobytes()).decode() for row_D in vectors_ND.astype("<f4")]
    if name in ("binary", "ubinary"):
        bits_ND = np.packbits(vectors_ND > 0, axis=1)
        return bits_ND if name == "ubinary" else (bits_ND.astype(np.int16) - 128).astype(np.int8)
    largest_N1 = np.abs(vectors_ND).max(axis=1, keepdims=True)
    scaled_ND = np.rint(vectors_ND * (127 / np.maximum(largest_N1, 1e-12)))
    if name == "int8":
        return scaled_ND.astype(np.int8)
    return (scaled_ND + 128).astype(np.uint8)
