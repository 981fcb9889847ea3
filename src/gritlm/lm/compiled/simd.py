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

FLOAT = ir.FloatType()
INT = ir.IntType(32)
LONG = ir.IntType(64)
FLOATS = ir.VectorType(FLOAT, LANES)
INTS = ir.VectorType(INT, LANES)


class _Vector(numba.types.Type):
    """Sixteen float32 values in a register."""

    def __init__(self) -> None:
        super().__init__(name="gritlm_vector")


_vector = _Vector()


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, FLOATS)


def splat_of(builder: Any, value: Any, kind: Any) -> Any:
    """Return a vector of equal elements."""
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(INT, 0))
    mask = ir.Constant(INTS, [0] * LANES)
    return builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), mask)


def constant(value: float, kind: Any = FLOATS) -> Any:
    return ir.Constant(kind, [value] * LANES)


def call(builder: Any, name: str, arguments: list[Any], result: Any) -> Any:
    kind = ir.FunctionType(result, [each.type for each in arguments])
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    return builder.call(function, arguments)


def fma_of(builder: Any, *arguments: Any) -> Any:
    return call(builder, "llvm.fma.v16f32", list(arguments), FLOATS)


def read(builder: Any, stored: Any, address: Any) -> Any:
    """Return sixteen values of a type at an address."""
    bits = {numba.types.float32: 32, numba.types.uint16: 16, numba.types.int8: 8}[stored]
    element = FLOAT if bits == 32 else ir.IntType(bits)
    vector = ir.VectorType(element, LANES)
    values = builder.load(builder.inttoptr(address, vector.as_pointer()))
    values.align = 1
    if bits == 16:  # bfloat16 is the upper half of float32
        wide = builder.shl(builder.zext(values, INTS), constant(16, INTS))
        return builder.bitcast(wide, FLOATS)
    return builder.sitofp(builder.sext(values, INTS), FLOATS) if bits == 8 else values


def total_of(builder: Any, value: Any) -> Any:
    """Return the sum of the values of a vector."""
    width = LANES
    while width > 1:
        width //= 2
        mask = ir.Constant(INTS, [(i + width) % LANES for i in range(LANES)])
        value = builder.fadd(value, builder.shuffle_vector(value, value, mask))
    return builder.extract_element(value, ir.Constant(INT, 0))


@intrinsic
def load(_: Any, kind: Any, address: Any) -> Any:
    """Return sixteen values at an address; ``kind`` is an array of their type."""
    return _vector(kind, address), lambda _c, builder, _s, arguments: read(
        builder, kind.dtype, arguments[1]
    )


@intrinsic
def store(_: Any, kind: Any, address: Any, values: Any) -> Any:
    """Write sixteen values to an address, rounded to the type of the array ``kind``."""
    stored = kind.dtype

    def code(__: Any, builder: Any, ___: Any, arguments: Any) -> Any:
        value = arguments[2]
        if stored is numba.types.uint16:  # to the nearest, and to even ones in the middle
            bits = builder.bitcast(value, INTS)
            odd = builder.and_(builder.lshr(bits, constant(16, INTS)), constant(1, INTS))
            rounded = builder.add(builder.add(bits, constant(0x7FFF, INTS)), odd)
            upper = builder.lshr(rounded, constant(16, INTS))
            value = builder.trunc(upper, ir.VectorType(ir.IntType(16), LANES))
        target = builder.inttoptr(arguments[1], value.type.as_pointer())
        builder.store(value, target).align = 1
        return cgutils.get_null_value(INT)

    return numba.types.int32(kind, address, values), code


@intrinsic
def splat(_: Any, value: Any) -> Any:
    """Return sixteen equal values."""
    return _vector(value), lambda _c, builder, _s, arguments: splat_of(
        builder, arguments[0], FLOATS
    )


@intrinsic
def fma(_: Any, a: Any, b: Any, c: Any) -> Any:
    """Return ``a * b + c``."""
    return _vector(a, b, c), lambda _c, builder, _s, arguments: fma_of(builder, *arguments)


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
    return _vector(a), lambda _c, builder, _s, arguments: builder.fdiv(constant(1.0), arguments[0])


@intrinsic
def total(_: Any, a: Any) -> Any:
    """Return the sum of the sixteen values."""

    return numba.types.float32(a), lambda _c, builder, _s, arguments: total_of(
        builder, arguments[0]
    )


@intrinsic
def exp(_: Any, a: Any) -> Any:
    """Return the exponential of values between -87 and 88; beyond, that of the bound."""

    def code(__: Any, builder: Any, ___: Any, arguments: Any) -> Any:
        low = call(builder, "llvm.maxnum.v16f32", [arguments[0], constant(-87.0)], FLOATS)
        held = call(builder, "llvm.minnum.v16f32", [low, constant(88.0)], FLOATS)
        power = builder.fmul(held, constant(_LOG2E))
        whole = call(builder, "llvm.rint.v16f32", [power], FLOATS)
        # the rest of the power, by one fused operation: no digits are lost
        rest = fma_of(builder, held, constant(_LOG2E), builder.fneg(whole))
        value = constant(_EXP2[0])
        for factor in _EXP2[1:]:
            value = fma_of(builder, value, rest, constant(factor))
        number = builder.add(builder.fptosi(whole, INTS), constant(127, INTS))
        scale = builder.bitcast(builder.shl(number, constant(23, INTS)), FLOATS)
        return builder.fmul(value, scale)

    return _vector(a), code


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
