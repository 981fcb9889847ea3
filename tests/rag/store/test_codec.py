"""Tensors to bytes and back, and how far they are off then."""

from __future__ import annotations

import pytest
import torch

from gritlm.errors import InputError
from gritlm.rag.kvstore import codec, record

SHAPES = [(2, 3, 7, 64), (3, 2, 5, 12), (1, 1, 4, 80), (2, 2, 3, 128)]


def data(shape: tuple[int, int, int, int], scale: float = 1.0) -> torch.Tensor:
    layers, heads, tokens, dim = shape
    random = torch.Generator().manual_seed(dim)
    made = torch.randn(layers, 2, heads, tokens, dim, generator=random) * scale
    made[0, 0, 0, 0] = 0  # a group of nothing but zeros
    made[0, 1, 0, 1] = 3  # and one without a range
    return made


def through(x: torch.Tensor, storage: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    layers, _, heads, tokens, dim = x.shape
    shape = (layers, heads, tokens, dim)
    raw_LB = codec.encode(x, storage)
    assert raw_LB.shape == (layers, record.layer_nbytes(shape, storage))
    return codec.decode(raw_LB, shape, storage, dtype)


@pytest.mark.parametrize("storage", ["float32", "float16", "bfloat16"])
def test_a_block_in_its_own_format_comes_back_exactly_and_without_a_copy(storage):
    dtype = record.FLOATS[storage]
    x = data(SHAPES[0]).to(dtype)
    raw_LB = codec.encode(x, storage)
    back = codec.decode(raw_LB, SHAPES[0], storage, dtype)
    assert torch.equal(back, x)
    assert back.data_ptr() == raw_LB.data_ptr()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_int8_is_off_by_half_a_step_of_its_group(shape, scale):
    x = data(shape, scale)
    groups = x.unflatten(-1, (-1, record.group_size(shape[-1], 64)))
    bound = groups.abs().amax(dim=-1, keepdim=True) / 253
    back = through(x, "int8").unflatten(-1, groups.shape[-2:])
    assert ((back - groups).abs() <= bound).all()


@pytest.mark.parametrize("scale", [1e-2, 1.0, 300.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_int4_is_off_by_half_a_step_of_its_group(shape, scale):
    x = data(shape, scale)
    groups = x.unflatten(-1, (-1, record.group_size(shape[-1], 32)))
    low = groups.amin(dim=-1, keepdim=True)
    reach = groups.amax(dim=-1, keepdim=True) - low
    back = through(x, "int4").unflatten(-1, groups.shape[-2:])
    assert ((back - groups).abs() <= reach / 29 + (reach + low.abs()) / 1000 + 1e-6).all()


@pytest.mark.parametrize(("storage", "bits"), [("bfloat16", 8), ("float16", 11)])
def test_another_float_format_rounds_once(storage, bits):
    x = data(SHAPES[0])
    assert ((through(x, storage) - x).abs() <= x.abs() * 2.0**-bits + 2.0**-25).all()


@pytest.mark.parametrize("storage", ["int8", "int4"])
def test_a_quantised_block_comes_back_in_the_format_of_the_model(storage):
    x = data(SHAPES[0]).bfloat16()
    back = through(x, storage, torch.bfloat16)
    assert back.dtype == torch.bfloat16
    # The block was read in bfloat16, so it is quantised from what these numbers are in float32.
    assert torch.equal(back, through(x.float(), storage).bfloat16())


def test_bytes_a_token_of_the_default_model_are_as_documented():
    shape = (30, 3, 512, 64)
    kib = {s: 30 * record.layer_nbytes(shape, s) / 512 / 1024 for s in record.STORAGES}
    assert kib["bfloat16"] == 22.5
    assert kib["int8"] == pytest.approx(12, abs=0.1)
    assert kib["int4"] == pytest.approx(7, abs=0.1)


@pytest.mark.parametrize("storage", record.STORAGES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(storage, bad):
    x = data(SHAPES[1])
    x[1, 0, 1, 2, 3] = bad
    with pytest.raises(InputError, match="not finite"):
        codec.encode(x, storage)


def test_values_that_are_too_large_are_refused():
    with pytest.raises(InputError, match="too large for float16"):
        codec.encode(data(SHAPES[1], 1e6), "float16")


def test_an_odd_head_is_refused_in_int4_only():
    x = torch.randn(2, 2, 1, 3, 9)
    assert through(x, "int8").shape == x.shape
    with pytest.raises(InputError, match="use int8"):
        codec.encode(x, "int4")
