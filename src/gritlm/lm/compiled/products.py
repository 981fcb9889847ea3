"""Products of a row of a weight and some rows of inputs, which numba compiles.

Where the processor multiplies pairs of bfloat16, inputs of bfloat16 weights are rounded to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
from llvmlite import binding, ir
from numba.core import cgutils
from numba.extending import intrinsic

from gritlm.lm.compiled.simd import (
    FLOAT,
    FLOATS,
    INT,
    LANES,
    LONG,
    call,
    constant,
    fma_of,
    read,
    total_of,
)

_SUMS = 4  # of a product, added in the end: a sum alone waits for the one before
_PAIRED_SUMS = 2
_SHORTS = ir.VectorType(ir.IntType(16), 2 * LANES)
PAIRED = "avx512bf16" in binding.get_host_cpu_features()
# The type bfloat of LLVM, which llvmlite does not name.
_BFLOAT: Any = type("BFloat", (ir.HalfType,), {"_to_string": lambda _: "bfloat"})
_PAIRS = ir.VectorType(_BFLOAT(), 2 * LANES)


def _read_row(builder: Any, stored: Any, first: Any, size: Any, k: Any, row: int) -> Any:
    """Return sixteen values of a row of a matrix."""
    place = builder.add(builder.mul(size, ir.Constant(LONG, row)), k)
    wide = ir.Constant(LONG, stored.bitwidth // 8)
    return read(builder, stored, builder.add(first, builder.mul(place, wide)))


def _pairs(builder: Any, first: Any, size: Any, k: Any, row: int, *, whole: bool) -> Any:
    """Return 32 bfloat16 values of a row; 16 and zeros unless ``whole``."""
    place = builder.add(builder.mul(size, ir.Constant(LONG, row)), k)
    at = builder.add(first, builder.mul(place, ir.Constant(LONG, 2)))
    kind = _SHORTS if whole else ir.VectorType(ir.IntType(16), LANES)
    values = builder.load(builder.inttoptr(at, kind.as_pointer()))
    values.align = 2
    if not whole:
        mask = ir.Constant(ir.VectorType(INT, 2 * LANES), list(range(2 * LANES)))
        values = builder.shuffle_vector(values, ir.Constant(kind, None), mask)
    return builder.bitcast(values, _PAIRS)


@dataclass(frozen=True)
class _Operands:
    """Addresses of a row of a weight and of rows of inputs, and their length."""

    stored: Any
    weight: Any
    x: Any
    size: Any
    rows: int

    @property
    def paired(self) -> bool:
        return PAIRED and self.stored is numba.types.uint16

    @property
    def lanes(self) -> int:
        return 2 * LANES if self.paired else LANES

    def go_on(self, builder: Any, k: Any, sums: Any, vectors: int, *, whole: bool = True) -> None:
        """Add the products of some vectors of inputs from ``k`` on to the sums of each row."""
        for number in range(vectors):
            at = builder.add(k, ir.Constant(LONG, self.lanes * number))
            if self.paired:
                value = _pairs(builder, self.weight, self.size, at, 0, whole=whole)
            else:
                value = _read_row(builder, self.stored, self.weight, self.size, at, 0)
            for r in range(self.rows):
                before = builder.load(sums[r][number])
                if self.paired:
                    other = _pairs(builder, self.x, self.size, at, r, whole=whole)
                    name = "llvm.x86.avx512bf16.dpbf16ps.512"
                    after = call(builder, name, [before, value, other], FLOATS)
                else:
                    other = _read_row(builder, numba.types.float32, self.x, self.size, at, r)
                    after = fma_of(builder, value, other, before)
                builder.store(after, sums[r][number])

    def totals(self, builder: Any) -> list[Any]:
        """Return the product with each row of inputs."""
        count = _PAIRED_SUMS if self.paired else _SUMS
        sums = [
            [cgutils.alloca_once_value(builder, constant(0.0)) for _ in range(count)]
            for _ in range(self.rows)
        ]
        end = ir.Constant(LONG, 0)
        parts = [(count, self.lanes, True), (1, self.lanes, True)]
        parts += [(1, LANES, False)] if self.paired else []
        for vectors, lanes, whole in parts:
            begin, step = end, ir.Constant(LONG, vectors * lanes)
            end = builder.mul(builder.sdiv(self.size, step), step)
            with cgutils.for_range_slice(builder, begin, end, step, LONG) as (k, _step):
                self.go_on(builder, k, sums, vectors, whole=whole)
        found = []
        for row in sums:
            values = [builder.load(each) for each in row]
            while len(values) > 1:
                values = [
                    builder.fadd(a, b) for a, b in zip(values[::2], values[1::2], strict=True)
                ]
            found.append(total_of(builder, values[0]))
        return found


def _products(rows: int) -> Any:
    """Return the function that multiplies a row of a weight by some rows of inputs.

    Weights are read in one stream, which is what memory is fastest at. The sums of all rows are in
    registers; each is summed in the same order, whatever the number of rows.
    """

    @intrinsic
    def products(
        _: Any, kind: Any, weight: Any, x: Any, size: Any, scale: Any, out: Any, stride: Any
    ) -> Any:
        def code(__: Any, builder: Any, ___: Any, arguments: Any) -> Any:
            _kind, weight, x, size, scale, out, stride = arguments
            operands = _Operands(kind.dtype, weight, x, size, rows)
            for r, product in enumerate(operands.totals(builder)):
                place = builder.mul(stride, ir.Constant(LONG, 4 * r))
                target = builder.inttoptr(builder.add(out, place), FLOAT.as_pointer())
                scaled = builder.fmul(product, scale)
                builder.store(builder.fadd(builder.load(target), scaled), target)
            return cgutils.get_null_value(INT)

        return numba.types.int32(kind, weight, x, size, scale, out, stride), code

    return products


# They add a product, scaled, to an output of each row; rows of outputs are ``stride`` apart.
products_of_one = _products(1)
products_of_two = _products(2)
products_of_four = _products(4)
