"""Kernels over the rows of a step: products, norms, rotation and attention.

Shapes: R rows, N outputs, K inputs of a product, D hidden size, E head dimension, T tokens that a
row attends to.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from gritlm.lm.compiled import products, simd
from gritlm.lm.compiled.products import PAIRED
from gritlm.lm.compiled.simd import LANES

F32 = np.empty(0, np.float32)
_FAR = np.float32(-1e30)
_TILE = 16  # outputs
compiled: Any = numba.njit(nogil=True, cache=True, error_model="numpy")

# Functions that numba types.
add: Any = simd.add
exp: Any = simd.exp
fma: Any = simd.fma
load: Any = simd.load
mul: Any = simd.mul
splat: Any = simd.splat
store: Any = simd.store
total: Any = simd.total
products_of_one: Any = products.products_of_one
products_of_two: Any = products.products_of_two
products_of_four: Any = products.products_of_four


def _dot(kind: Any, weight: int, x: int, size: int) -> Any:
    """Return the product of a row of a weight and a row of inputs, by their addresses."""
    wide = kind.itemsize
    a = b = c = d = splat(np.float32(0))
    k = 0
    while k + 64 <= size:
        a = fma(load(kind, weight + wide * k), load(F32, x + 4 * k), a)
        b = fma(load(kind, weight + wide * (k + 16)), load(F32, x + 4 * (k + 16)), b)
        c = fma(load(kind, weight + wide * (k + 32)), load(F32, x + 4 * (k + 32)), c)
        d = fma(load(kind, weight + wide * (k + 48)), load(F32, x + 4 * (k + 48)), d)
        k += 64
    while k < size:
        a = fma(load(kind, weight + wide * k), load(F32, x + 4 * k), a)
        k += LANES
    return total(add(add(a, b), add(c, d)))


dot = compiled(_dot)


def _multiply(
    kind: Any, weight: int, scale_N: Any, x_RK: Any, out_RN: Any, part: Any, rounded_RK: Any
) -> None:
    """Add the outputs ``part`` of a product to columns of ``out_RN``.

    Args:
        kind: type of the weight.
        weight: address of the weight.
        scale_N: scale of each output; column ``part[2]`` has the first one.
        x_RK: inputs.
        out_RN: outputs.
        part: first and last column that are written, and the column of the weight's first output.
        rounded_RK: memory for inputs in bfloat16.
    """
    rows, size = x_RK.shape
    inputs = x_RK.ctypes.data
    wide = 4
    paired = PAIRED and kind.itemsize == 2
    if paired:
        wide = 2
        for place in range(0, rows * size, LANES):
            store(kind, rounded_RK.ctypes.data + 2 * place, load(F32, inputs + 4 * place))
        inputs = rounded_RK.ctypes.data
    stride = out_RN.shape[1]
    first, last, begin = part
    # A few rows of inputs stay in the nearest cache while they meet a few rows of the weight.
    for start in range(first, last, _TILE):
        stop = min(start + _TILE, last)
        r = 0
        while r < rows:
            group = rows - r
            group = 4 if group >= 4 else 2 if group >= 2 else 1
            x = inputs + wide * r * size
            for n in range(start, stop):
                row = weight + (n - begin) * size * kind.itemsize
                out = out_RN.ctypes.data + 4 * (r * stride + n)
                scale = scale_N[n - begin]
                if group == 4:
                    products_of_four(kind, row, x, size, scale, out, stride)
                elif group == 2:
                    products_of_two(kind, row, x, size, scale, out, stride)
                else:
                    products_of_one(kind, row, x, size, scale, out, stride)
            r += group


multiply = compiled(_multiply)


def _normalise(kind: Any, weight: int, epsilon: Any, x_RD: Any, out_RD: Any) -> None:
    """Write the RMS norm of each row."""
    rows, size = x_RD.shape
    x = x_RD.ctypes.data
    out = out_RD.ctypes.data
    for r in range(rows):
        squares = splat(np.float32(0))
        for d in range(0, size, LANES):
            value = load(F32, x + 4 * (r * size + d))
            squares = fma(value, value, squares)
        root = np.float32(1) / np.sqrt(total(squares) / np.float32(size) + epsilon)
        for d in range(0, size, LANES):
            value = mul(load(F32, x + 4 * (r * size + d)), splat(np.float32(root)))
            normed = mul(value, load(kind, weight + kind.itemsize * d))
            store(F32, out + 4 * (r * size + d), normed)


normalise = compiled(_normalise)


def _rotate(row_RE: Any, cos_E: Any, sin_E: Any, scale: Any) -> None:
    """Rotate a head in place."""
    half = len(row_RE) // 2
    for i in range(half):
        low = row_RE[i]
        high = row_RE[i + half]
        row_RE[i] = (low * cos_E[i] - high * sin_E[i]) * scale
        row_RE[i + half] = (high * cos_E[i + half] + low * sin_E[i + half]) * scale


rotate = compiled(_rotate)


def _attend(plain: Any, keys: int, values: int, query_E: Any, score_T: Any, out_E: Any) -> None:
    """Write the attention of a query over the first keys and values of a head."""
    size = len(query_E)
    held = len(score_T) - LANES  # the last ones pad the vectors
    wide = plain.itemsize * size
    query = query_E.ctypes.data
    score = score_T.ctypes.data
    highest = _FAR
    for t in range(held):
        score_T[t] = dot(plain, keys + t * wide, query, size)
        highest = max(highest, score_T[t])
    score_T[held:] = _FAR
    sums = splat(np.float32(0))
    for t in range(0, held, LANES):
        weight = exp(add(load(F32, score + 4 * t), splat(-highest)))
        store(F32, score + 4 * t, weight)
        sums = add(sums, weight)
    share = np.float32(1) / total(sums)
    for e in range(0, size, LANES):
        one = two = splat(np.float32(0))
        place = values + plain.itemsize * e
        t = 0
        while t + 1 < held:
            one = fma(splat(score_T[t]), load(plain, place + t * wide), one)
            two = fma(splat(score_T[t + 1]), load(plain, place + (t + 1) * wide), two)
            t += 2
        if t < held:
            one = fma(splat(score_T[t]), load(plain, place + t * wide), one)
        store(F32, out_E.ctypes.data + 4 * e, mul(add(one, two), splat(share)))


attend = compiled(_attend)
