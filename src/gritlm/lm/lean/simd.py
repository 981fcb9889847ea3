"""Vectors of sixteen float32 values for code that numba compiles.

They are read from float32, bfloat16 and int8 by address, so that no product converts a weight.
"""

from __future__ import annotations

from typing import Any

import numba
from llvmlite import ir
from numba.core import cgutils
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

LANES = 16  # of a vector
_LOG2E = 1.4426950408889634
_EXP2 = (1.5403530e-4, 1.3333558e-3, 9.6181291e-3, 5.5504109e-2, 2.4022651e-1, 6.9314718e-1, 1.0)

_FLOAT = ir.FloatType()
_INT = ir.IntType(32)
_LONG = ir.IntType(64)
_FLOATS = ir.VectorType(_FLOAT, LANES)
_INTS = ir.VectorType(_INT, LANES)
_SUMS = 4  # of a product, added in the end: a sum alone waits for the one before


class _Vector(numba.types.Type):
    """Sixteen float32 values in a register."""

    def __init__(self) -> None:
        super().__init__(name="gritlm_vector")


_vector = _Vector()


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _FLOATS)


def _splat(builder: Any, value: Any, kind: Any) -> Any:
    """Return a vector of equal elements."""
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(_INT, 0))
    mask = ir.Constant(_INTS, [0] * LANES)
    return builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), mask)


def _constant(value: float, kind: Any = _FLOATS) -> Any:
    return ir.Constant(kind, [value] * LANES)


def _call(builder: Any, name: str, arguments: list[Any], result: Any) -> Any:
    kind = ir.FunctionType(result, [each.type for each in arguments])
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    return builder.call(function, arguments)


def _fma(builder: Any, *arguments: Any) -> Any:
    return _call(builder, "llvm.fma.v16f32", list(arguments), _FLOATS)


def _read(builder: Any, stored: Any, address: Any) -> Any:
    """Return sixteen values of a type at an address."""
    bits = {numba.types.float32: 32, numba.types.uint16: 16, numba.types.int8: 8}[stored]
    element = _FLOAT if bits == 32 else ir.IntType(bits)
    vector = ir.VectorType(element, LANES)
    values = builder.load(builder.inttoptr(address, vector.as_pointer()))
    values.align = 1
    if bits == 16:  # bfloat16 is the upper half of float32
        wide = builder.shl(builder.zext(values, _INTS), _constant(16, _INTS))
        return builder.bitcast(wide, _FLOATS)
    return builder.sitofp(builder.sext(values, _INTS), _FLOATS) if bits == 8 else values


@intrinsic
def load(_: Any, kind: Any, address: Any) -> Any:
    """Return sixteen values at an address; ``kind`` is an array of their type."""
    return _vector(kind, address), lambda _c, builder, _s, arguments: _read(
        builder, kind.dtype, arguments[1]
    )


@intrinsic
def store(_: Any, kind: Any, address: Any, values: Any) -> Any:
    """Write sixteen values to an address, rounded to the type of the array ``kind``."""
    stored = kind.dtype

    def code(__: Any, builder: Any, ___: Any, arguments: Any) -> Any:
        value = arguments[2]
        if stored is numba.types.uint16:  # to the nearest, and to even ones in the middle
            bits = builder.bitcast(value, _INTS)
            odd = builder.and_(builder.lshr(bits, _constant(16, _INTS)), _constant(1, _INTS))
            rounded = builder.add(builder.add(bits, _constant(0x7FFF, _INTS)), odd)
            upper = builder.lshr(rounded, _constant(16, _INTS))
            value = builder.trunc(upper, ir.VectorType(ir.IntType(16), LANES))
        target = builder.inttoptr(arguments[1], value.type.as_pointer())
        builder.store(value, target).align = 1
        return cgutils.get_null_value(_INT)

    return numba.types.int32(kind, address, values), code


@intrinsic
def splat(_: Any, value: Any) -> Any:
    """Return sixteen equal values."""
    return _vector(value), lambda _c, builder, _s, arguments: _splat(builder, arguments[0], _FLOATS)


@intrinsic
def fma(_: Any, a: Any, b: Any, c: Any) -> Any:
    """Return ``a * b + c``."""
    return _vector(a, b, c), lambda _c, builder, _s, arguments: _fma(builder, *arguments)


@intrinsic
def add(_: Any, a: Any, b: Any) -> Any:
    """Return ``a + b``."""
    return _vector(a, b), lambda _c, builder, _s, arguments: builder.fadd(*arguments)


@intrinsic
def mul(_: Any, a: Any, b: Any) -> Any:
    """Return ``a * b``."""
    return _vector(a, b), lambda _c, builder, _s, arguments: builder.fmul(*arguments)


@intrinsic
def inverse(_: Any, a: Any) -> Any:
    """Return ``1 / a``."""
    return _vector(a), lambda _c, builder, _s, arguments: builder.fdiv(_constant(1.0), arguments[0])


@intrinsic
def total(_: Any, a: Any) -> Any:
    """Return the sum of the sixteen values."""

    return numba.types.float32(a), lambda _c, builder, _s, arguments: _total(builder, arguments[0])


@intrinsic
def exp(_: Any, a: Any) -> Any:
    """Return the exponential of values between -87 and 88; beyond, that of the bound."""

    def code(__: Any, builder: Any, ___: Any, arguments: Any) -> Any:
        low = _call(builder, "llvm.maxnum.v16f32", [arguments[0], _constant(-87.0)], _FLOATS)
        held = _call(builder, "llvm.minnum.v16f32", [low, _constant(88.0)], _FLOATS)
        power = builder.fmul(held, _constant(_LOG2E))
        whole = _call(builder, "llvm.rint.v16f32", [power], _FLOATS)
        # the rest of the power, by one fused operation: no digits are lost
        rest = _fma(builder, held, _constant(_LOG2E), builder.fneg(whole))
        value = _constant(_EXP2[0])
        for factor in _EXP2[1:]:
            value = _fma(builder, value, rest, _constant(factor))
        number = builder.add(builder.fptosi(whole, _INTS), _constant(127, _INTS))
        scale = builder.bitcast(builder.shl(number, _constant(23, _INTS)), _FLOATS)
        return builder.fmul(value, scale)

    return _vector(a), code


def _read_row(builder: Any, stored: Any, first: Any, size: Any, k: Any, row: int) -> Any:
    """Return sixteen values of a row of a matrix."""
    place = builder.add(builder.mul(size, ir.Constant(_LONG, row)), k)
    wide = ir.Constant(_LONG, stored.bitwidth // 8)
    return _read(builder, stored, builder.add(first, builder.mul(place, wide)))


def _total(builder: Any, value: Any) -> Any:
    """Return the sum of the values of a vector."""
    width = LANES
    while width > 1:
        width //= 2
        mask = ir.Constant(_INTS, [(i + width) % LANES for i in range(LANES)])
        value = builder.fadd(value, builder.shuffle_vector(value, value, mask))
    return builder.extract_element(value, ir.Constant(_INT, 0))


def _products(rows: int) -> Any:
    """Return the function that multiplies a row of a weight by some rows of inputs.

    Weights are read in one stream, which is what memory is fastest at. The sums of all rows are in
    registers; each is summed in the same order, whatever the number of rows.
    """

    @intrinsic
    def products(
        _: Any, kind: Any, weight: Any, x: Any, size: Any, scale: Any, out: Any, stride: Any
    ) -> Any:
        stored = kind.dtype

        def code(__: Any, builder: Any, ___: Any, arguments: Any) -> Any:
            _kind, weight, x, size, scale, out, stride = arguments
            sums = [
                [cgutils.alloca_once_value(builder, _constant(0.0)) for _ in range(_SUMS)]
                for _ in range(rows)
            ]

            def go_on(k: Any, vectors: int) -> None:
                """Add the products of some vectors of inputs from ``k`` on."""
                for number in range(vectors):
                    at = builder.add(k, ir.Constant(_LONG, LANES * number))
                    value = _read_row(builder, stored, weight, size, at, 0)
                    for r in range(rows):
                        inputs = _read_row(builder, numba.types.float32, x, size, at, r)
                        before = builder.load(sums[r][number])
                        builder.store(_fma(builder, value, inputs, before), sums[r][number])

            zero, step = ir.Constant(_LONG, 0), ir.Constant(_LONG, _SUMS * LANES)
            whole = builder.mul(builder.sdiv(size, step), step)
            with cgutils.for_range_slice(builder, zero, whole, step, _LONG) as (k, _step):
                go_on(k, _SUMS)
            lanes = ir.Constant(_LONG, LANES)
            with cgutils.for_range_slice(builder, whole, size, lanes, _LONG) as (k, _step):
                go_on(k, 1)
            for r in range(rows):
                a, b, c, d = (builder.load(each) for each in sums[r])
                both = builder.fadd(builder.fadd(a, b), builder.fadd(c, d))
                place = builder.mul(stride, ir.Constant(_LONG, 4 * r))
                target = builder.inttoptr(builder.add(out, place), _FLOAT.as_pointer())
                scaled = builder.fmul(_total(builder, both), scale)
                builder.store(builder.fadd(builder.load(target), scaled), target)
            return cgutils.get_null_value(_INT)

        return numba.types.int32(kind, weight, x, size, scale, out, stride), code

    return products


# They add a product, scaled, to an output of each row; rows of outputs are ``stride`` apart.
products_of_one = _products(1)
products_of_two = _products(2)
products_of_four = _products(4)


@intrinsic
def arrive(_: Any, address: Any) -> Any:
    """Add one to a counter that several threads read, and return its new value."""

    def code(__: Any, builder: Any, ___: Any, arguments: Any) -> Any:
        whole = ir.IntType(64)
        target = builder.inttoptr(arguments[0], whole.as_pointer())
        before = builder.atomic_rmw("add", target, ir.Constant(whole, 1), "seq_cst")
        return builder.add(before, ir.Constant(whole, 1))

    return numba.types.int64(address), code


@intrinsic
def seen(_: Any, address: Any) -> Any:
    """Return the value of such a counter."""

    def code(__: Any, builder: Any, ___: Any, arguments: Any) -> Any:
        target = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        return builder.load_atomic(target, "seq_cst", 8)

    return numba.types.int64(address), code
