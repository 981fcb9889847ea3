"""Packed weights: a matrix in the layout of oneDNN, which multiplies few rows twice as fast."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Projection = Callable[[Tensor], Tensor]


def can_pack() -> bool:
    """Return whether this torch has the operators of packed weights."""
    return (
        torch.backends.mkldnn.is_available()
        and hasattr(_ops(), "_reorder_linear_weight")
        and hasattr(_ops(), "_linear_pointwise")
    )


def pack(weight_NK: Tensor, bias_N: Tensor | None) -> Projection:
    """Return the linear layer of a packed copy of a bfloat16 weight.

    Args:
        weight_NK: weight of N outputs and K inputs.
        bias_N: bias; None without one.
    """
    own = _ops()._reorder_linear_weight(weight_NK, 1)
    multiply = _ops()._linear_pointwise
    return lambda x: multiply(x, own, bias_N, "none", [], "")


def joined_bias(linears: Sequence[nn.Linear]) -> Tensor | None:
    """Return the biases of linear layers side by side; None if no layer has one."""
    if all(linear.bias is None for linear in linears):
        return None
    zeros = [linear.weight.new_zeros(linear.out_features) for linear in linears]
    pairs = zip(linears, zeros, strict=True)
    return torch.cat([zero if each.bias is None else each.bias.detach() for each, zero in pairs])


def _ops() -> Any:
    return torch.ops.mkldnn
