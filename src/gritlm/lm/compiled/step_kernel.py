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

from gritlm.lm.compiled import simd
from gritlm.lm.compiled.row_kernels import F32, attend, compiled, multiply, normalise, rotate
from gritlm.lm.compiled.simd import LANES

_SPINS = 2000  # looks at the counter before another thread may have the core
_let_others_run = numba.types.ExternalFunction("sched_yield", numba.types.int32())
# Functions that numba types.
add: Any = simd.add
arrive: Any = simd.arrive
exp: Any = simd.exp
inverse: Any = simd.inverse
load: Any = simd.load
mul: Any = simd.mul
seen: Any = simd.seen
splat: Any = simd.splat
store: Any = simd.store

# Columns of the table of addresses of a layer.
NORM, QUERY, KEY, VALUE, OUT, MLP_NORM, GATE, UP, DOWN = range(9)


def _wait(counter: Any, arrivals: int) -> None:
    """Wait until as many arrivals were counted, with one's own."""
    arrive(counter.ctypes.data)
    spins = 0
    while seen(counter.ctypes.data) < arrivals:
        spins += 1
        if spins > _SPINS:
            _let_others_run()
            spins = 0


wait = compiled(_wait)


def _part(outputs: int, thread: int, threads: int) -> Any:
    """Return the range of outputs of a thread, in whole vectors."""
    vectors = outputs // LANES
    return vectors * thread // threads * LANES, vectors * (thread + 1) // threads * LANES


part_of = compiled(_part)


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
    rounded_W: Any
    score_WT: Any
    counter: Any


def _project(model: Any, layer: int, normed_RD: Any, work: Any, part: Any, rounded: Any) -> None:
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
        multiply(model.weight, table[column], scale[begin:], normed_RD, work.qkv, own, rounded)
        begin += outputs


project = compiled(_project)


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
            store(model.plain, rows.cache_L2[layer, 0] + at, load(F32, key.ctypes.data + 4 * e))
            store(model.plain, rows.cache_L2[layer, 1] + at, load(F32, value.ctypes.data + 4 * e))


remember = compiled(_remember)


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


recall = compiled(_recall)


def _activate(model: Any, layer: int, normed_RD: Any, work: Any, part: Any, rounded: Any) -> None:
    """Write a range of the gated outputs of the MLP; it begins and ends at whole vectors."""
    first, last = part
    table = model.table_LC[layer]
    begin = work.qkv.shape[1] + normed_RD.shape[1]
    inner = work.gate.shape[1]
    scale = model.scale_LS[layer, begin:]
    own = (first, last, 0)
    work.gate[:, first:last] = 0
    work.up[:, first:last] = 0
    multiply(model.weight, table[GATE], scale, normed_RD, work.gate, own, rounded)
    multiply(model.weight, table[UP], scale[inner:], normed_RD, work.up, own, rounded)
    for r in range(len(normed_RD)):
        gates = work.gate[r].ctypes.data
        ups = work.up[r].ctypes.data
        for i in range(first, last, LANES):
            gate = load(F32, gates + 4 * i)
            falling = exp(mul(gate, splat(np.float32(-1))))
            sigmoid = inverse(add(falling, splat(np.float32(1))))
            store(F32, gates + 4 * i, mul(mul(gate, sigmoid), load(F32, ups + 4 * i)))


activate = compiled(_activate)


def _step(model: Any, rows: Any, work: Any, thread: int, threads: int) -> None:
    """Compute the share of a thread in a step; all threads call it and leave together."""
    x_RD = rows.x_RD
    hidden = x_RD.shape[1]
    outputs = work.qkv.shape[1]
    inner = work.gate.shape[1]
    normed_RD = work.normed_WRD[thread]
    rounded = work.rounded_W[thread]
    arrivals = 0
    for layer in range(len(model.table_LC)):
        table = model.table_LC[layer]
        scale = model.scale_LS[layer]
        first, last = part_of(hidden, thread, threads)
        own = (first, last, 0)
        normalise(model.plain, table[NORM], model.epsilon, x_RD, normed_RD)
        project(model, layer, normed_RD, work, part_of(outputs, thread, threads), rounded)
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
        multiply(model.weight, table[OUT], scale[outputs:], work.mixed, x_RD, own, rounded)
        arrivals += threads
        wait(work.counter, arrivals)
        normalise(model.plain, table[MLP_NORM], model.epsilon, x_RD, normed_RD)
        activate(model, layer, normed_RD, work, part_of(inner, thread, threads), rounded)
        arrivals += threads
        wait(work.counter, arrivals)
        scale = scale[outputs + hidden + 2 * inner :]
        multiply(model.weight, table[DOWN], scale, work.gate, x_RD, own, rounded)
        arrivals += threads
        wait(work.counter, arrivals)
    kept, vocabulary = rows.logits_RV.shape
    x_RD = x_RD[len(x_RD) - kept :]
    normed_RD = normed_RD[:kept]
    normalise(model.plain, model.norm, model.epsilon, x_RD, normed_RD)
    first, last = part_of(vocabulary, thread, threads)
    own = (first, last, 0)
    rows.logits_RV[:, first:last] = 0
    multiply(model.weight, model.head, model.head_scale_V, normed_RD, rows.logits_RV, own, rounded)
    arrivals += threads
    wait(work.counter, arrivals)


step = compiled(_step)
