"""The compiled step: norms, products, rotation and attention of all layers in one function.

A step reads every weight once, from where it is, and makes no temporary tensors. A row (a token)
has the same sums for every number of rows, and the threads share the outputs of each product.

Shapes: R rows, D hidden size, I inner size of the MLP, H query heads, K key/value heads, E head
dimension, L layers, V vocabulary, S outputs of a layer, T tokens that a row attends to, W threads.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np

from gritlm.lm.lean import simd
from gritlm.lm.lean.simd import LANES

_F32 = np.empty(0, np.float32)
_SPINS = 2000  # looks at the counter before another thread may have the core
_FAR = np.float32(-1e30)
_TILE = 16  # outputs
_let_others_run = numba.types.ExternalFunction("sched_yield", numba.types.int32())
# Functions that numba types.
add: Any = simd.add
arrive: Any = simd.arrive
exp: Any = simd.exp
fma: Any = simd.fma
inverse: Any = simd.inverse
load: Any = simd.load
mul: Any = simd.mul
products_of_four: Any = simd.products_of_four
products_of_one: Any = simd.products_of_one
products_of_two: Any = simd.products_of_two
seen: Any = simd.seen
splat: Any = simd.splat
store: Any = simd.store
total: Any = simd.total
_compiled: Any = numba.njit(nogil=True, cache=True, error_model="numpy")

# Columns of the table of addresses of a layer.
NORM, QUERY, KEY, VALUE, OUT, MLP_NORM, GATE, UP, DOWN = range(9)


def _dot(kind: Any, weight: int, x: int, size: int) -> Any:
    """Return the product of a row of a weight and a row of inputs, by their addresses."""
    wide = kind.itemsize
    a = b = c = d = splat(np.float32(0))
    k = 0
    while k + 64 <= size:
        a = fma(load(kind, weight + wide * k), load(_F32, x + 4 * k), a)
        b = fma(load(kind, weight + wide * (k + 16)), load(_F32, x + 4 * (k + 16)), b)
        c = fma(load(kind, weight + wide * (k + 32)), load(_F32, x + 4 * (k + 32)), c)
        d = fma(load(kind, weight + wide * (k + 48)), load(_F32, x + 4 * (k + 48)), d)
        k += 64
    while k < size:
        a = fma(load(kind, weight + wide * k), load(_F32, x + 4 * k), a)
        k += LANES
    return total(add(add(a, b), add(c, d)))


dot = _compiled(_dot)


def _multiply(kind: Any, weight: int, scale_N: Any, x_RK: Any, out_RN: Any, part: Any) -> None:
    """Add the outputs ``part`` of a product to columns of ``out_RN``.

    Args:
        kind: type of the weight.
        weight: address of the weight.
        scale_N: scale of each output; column ``part[2]`` has the first one.
        x_RK: inputs.
        out_RN: outputs.
        part: first and last column that are written, and the column of the weight's first output.
    """
    rows, size = x_RK.shape
    stride = out_RN.shape[1]
    first, last, begin = part
    # A few rows of inputs stay in the nearest cache while they meet a few rows of the weight.
    for start in range(first, last, _TILE):
        stop = min(start + _TILE, last)
        for r in range(0, rows, 4):
            x = x_RK.ctypes.data + 4 * r * size
            for n in range(start, stop):
                row = weight + (n - begin) * size * kind.itemsize
                out = out_RN.ctypes.data + 4 * (r * stride + n)
                scale = scale_N[n - begin]
                left = rows - r
                if left >= 4:
                    products_of_four(kind, row, x, size, scale, out, stride)
                elif left == 1:
                    products_of_one(kind, row, x, size, scale, out, stride)
                else:
                    products_of_two(kind, row, x, size, scale, out, stride)
                    if left == 3:
                        x2, out2 = x + 8 * size, out + 8 * stride
                        products_of_one(kind, row, x2, size, scale, out2, stride)


multiply = _compiled(_multiply)


def _normalise(kind: Any, weight: int, epsilon: Any, x_RD: Any, out_RD: Any) -> None:
    """Write the RMS norm of each row."""
    rows, size = x_RD.shape
    x = x_RD.ctypes.data
    out = out_RD.ctypes.data
    for r in range(rows):
        squares = splat(np.float32(0))
        for d in range(0, size, LANES):
            value = load(_F32, x + 4 * (r * size + d))
            squares = fma(value, value, squares)
        root = np.float32(1) / np.sqrt(total(squares) / np.float32(size) + epsilon)
        for d in range(0, size, LANES):
            value = mul(load(_F32, x + 4 * (r * size + d)), splat(np.float32(root)))
            normed = mul(value, load(kind, weight + kind.itemsize * d))
            store(_F32, out + 4 * (r * size + d), normed)


normalise = _compiled(_normalise)


def _rotate(row_RE: Any, cos_E: Any, sin_E: Any, scale: Any) -> None:
    """Rotate a head in place."""
    half = len(row_RE) // 2
    for i in range(half):
        low = row_RE[i]
        high = row_RE[i + half]
        row_RE[i] = (low * cos_E[i] - high * sin_E[i]) * scale
        row_RE[i + half] = (high * cos_E[i + half] + low * sin_E[i + half]) * scale


rotate = _compiled(_rotate)


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
        weight = exp(add(load(_F32, score + 4 * t), splat(-highest)))
        store(_F32, score + 4 * t, weight)
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
        store(_F32, out_E.ctypes.data + 4 * e, mul(add(one, two), splat(share)))


attend = _compiled(_attend)


def _wait(counter: Any, arrivals: int) -> None:
    """Wait until as many arrivals were counted, with one's own."""
    arrive(counter.ctypes.data)
    spins = 0
    while seen(counter.ctypes.data) < arrivals:
        spins += 1
        if spins > _SPINS:
            _let_others_run()
            spins = 0


wait = _compiled(_wait)


def _part(outputs: int, thread: int, threads: int) -> Any:
    """Return the range of outputs of a thread, in whole vectors."""
    vectors = outputs // LANES
    return vectors * thread // threads * LANES, vectors * (thread + 1) // threads * LANES


part_of = _compiled(_part)


class StepModel(NamedTuple):
    """A model as the step reads it.

    Attributes:
        weight: empty array of the type of the matrices.
        plain: empty array of the type of norms, keys and values.
        table_LC: addresses of norms and matrices of each layer; see :data:`NORM` and so on.
        scale_LS: scale of each output of a layer: query, key, value, out, gate, up, down.
        norm: address of the last norm.
        head: address of the LM head.
        head_scale_V: scale of each of its outputs.
        heads: number of query heads.
        key_heads: number of key/value heads.
        epsilon: that of the norms.
    """

    weight: Any
    plain: Any
    table_LC: Any
    scale_LS: Any
    norm: int
    head: int
    head_scale_V: Any
    heads: int
    key_heads: int
    epsilon: Any


class StepRows(NamedTuple):
    """The rows of a step.

    Attributes:
        x_RD: embeddings, which become the states.
        cos_RE: cosines of the positions.
        sin_RE: sines of the positions.
        cache_L2: addresses of keys and values of each layer.
        capacity: room of a sequence in tokens.
        sequence_R: index of the sequence of each row in keys and values.
        place_R: index of the row's token in its sequence.
        logits_RV: the result, of the last rows.
    """

    x_RD: Any
    cos_RE: Any
    sin_RE: Any
    cache_L2: Any
    capacity: int
    sequence_R: Any
    place_R: Any
    logits_RV: Any


class StepWork(NamedTuple):
    """Memory of a step: projections (R, ...), attention, gate and up, and that of each thread."""

    qkv: Any
    mixed: Any
    gate: Any
    up: Any
    normed_WRD: Any
    score_WT: Any
    counter: Any


def _project(model: Any, layer: int, normed_RD: Any, work: Any, part: Any) -> None:
    """Write the queries, keys and values of a range of outputs."""
    first, last = part
    size = work.mixed.shape[1]
    other = (work.qkv.shape[1] - size) // 2
    table = model.table_LC[layer]
    scale = model.scale_LS[layer]
    begin = 0
    for column, outputs in ((QUERY, size), (KEY, other), (VALUE, other)):
        own = (max(first, begin), min(last, begin + outputs), begin)
        work.qkv[:, own[0] : own[1]] = 0
        multiply(model.weight, table[column], scale[begin:], normed_RD, work.qkv, own)
        begin += outputs


project = _compiled(_project)


def _remember(model: Any, layer: int, rows: Any, work: Any, head: int) -> None:
    """Rotate the keys of a head, and write its keys and values to the cache."""
    size = rows.cos_RE.shape[1]
    wide = model.plain.itemsize
    first = work.mixed.shape[1] + head * size
    second = first + model.key_heads * size
    for r in range(len(rows.x_RD)):
        key = work.qkv[r, first : first + size]
        value = work.qkv[r, second : second + size]
        rotate(key, rows.cos_RE[r], rows.sin_RE[r], np.float32(1))
        place = (rows.sequence_R[r] * model.key_heads + head) * rows.capacity + rows.place_R[r]
        for e in range(0, size, LANES):
            at = wide * (place * size + e)
            store(model.plain, rows.cache_L2[layer, 0] + at, load(_F32, key.ctypes.data + 4 * e))
            store(model.plain, rows.cache_L2[layer, 1] + at, load(_F32, value.ctypes.data + 4 * e))


remember = _compiled(_remember)


def _recall(model: Any, layer: int, rows: Any, work: Any, head: int, score_T: Any) -> None:
    """Write the attention of a query head."""
    size = rows.cos_RE.shape[1]
    scale = np.float32(1) / np.sqrt(np.float32(size))
    key_head = head // (model.heads // model.key_heads)
    for r in range(len(rows.x_RD)):
        query = work.qkv[r, head * size : (head + 1) * size]
        rotate(query, rows.cos_RE[r], rows.sin_RE[r], scale)
        first = (rows.sequence_R[r] * model.key_heads + key_head) * rows.capacity
        at = model.plain.itemsize * first * size
        attend(
            model.plain,
            rows.cache_L2[layer, 0] + at,
            rows.cache_L2[layer, 1] + at,
            query,
            score_T[: rows.place_R[r] + 1 + LANES],
            work.mixed[r, head * size : (head + 1) * size],
        )


recall = _compiled(_recall)


def _activate(model: Any, layer: int, normed_RD: Any, work: Any, part: Any) -> None:
    """Write a range of the gated outputs of the MLP; it begins and ends at whole vectors."""
    first, last = part
    table = model.table_LC[layer]
    begin = work.qkv.shape[1] + normed_RD.shape[1]
    inner = work.gate.shape[1]
    scale = model.scale_LS[layer, begin:]
    own = (first, last, 0)
    work.gate[:, first:last] = 0
    work.up[:, first:last] = 0
    multiply(model.weight, table[GATE], scale, normed_RD, work.gate, own)
    multiply(model.weight, table[UP], scale[inner:], normed_RD, work.up, own)
    for r in range(len(normed_RD)):
        gates = work.gate[r].ctypes.data
        ups = work.up[r].ctypes.data
        for i in range(first, last, LANES):
            gate = load(_F32, gates + 4 * i)
            falling = exp(mul(gate, splat(np.float32(-1))))
            sigmoid = inverse(add(falling, splat(np.float32(1))))
            store(_F32, gates + 4 * i, mul(mul(gate, sigmoid), load(_F32, ups + 4 * i)))


activate = _compiled(_activate)


def _step(model: Any, rows: Any, work: Any, thread: int, threads: int) -> None:
    """Compute the share of a thread in a step; all threads call it and leave together."""
    x_RD = rows.x_RD
    hidden = x_RD.shape[1]
    outputs = work.qkv.shape[1]
    inner = work.gate.shape[1]
    normed_RD = work.normed_WRD[thread]
    arrivals = 0
    for layer in range(len(model.table_LC)):
        table = model.table_LC[layer]
        scale = model.scale_LS[layer]
        first, last = part_of(hidden, thread, threads)
        own = (first, last, 0)
        normalise(model.plain, table[NORM], model.epsilon, x_RD, normed_RD)
        project(model, layer, normed_RD, work, part_of(outputs, thread, threads))
        arrivals += threads
        wait(work.counter, arrivals)
        for head in range(thread, model.key_heads, threads):
            remember(model, layer, rows, work, head)
        arrivals += threads
        wait(work.counter, arrivals)
        for head in range(thread, model.heads, threads):
            recall(model, layer, rows, work, head, work.score_WT[thread])
        arrivals += threads
        wait(work.counter, arrivals)
        multiply(model.weight, table[OUT], scale[outputs:], work.mixed, x_RD, own)
        arrivals += threads
        wait(work.counter, arrivals)
        normalise(model.plain, table[MLP_NORM], model.epsilon, x_RD, normed_RD)
        activate(model, layer, normed_RD, work, part_of(inner, thread, threads))
        arrivals += threads
        wait(work.counter, arrivals)
        scale = scale[outputs + hidden + 2 * inner :]
        multiply(model.weight, table[DOWN], scale, work.gate, x_RD, own)
        arrivals += threads
        wait(work.counter, arrivals)
    kept, vocabulary = rows.logits_RV.shape
    x_RD = x_RD[len(x_RD) - kept :]
    normed_RD = normed_RD[:kept]
    normalise(model.plain, model.norm, model.epsilon, x_RD, normed_RD)
    first, last = part_of(vocabulary, thread, threads)
    own = (first, last, 0)
    rows.logits_RV[:, first:last] = 0
    multiply(model.weight, model.head, model.head_scale_V, normed_RD, rows.logits_RV, own)
    arrivals += threads
    wait(work.counter, arrivals)


step = _compiled(_step)
