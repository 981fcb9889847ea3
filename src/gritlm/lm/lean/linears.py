"""Linear layers for inference on a CPU, with weights in the layout of oneDNN where that pays."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch.nn import functional as F

log = logging.getLogger(__name__)

Projection = Callable[[Tensor], Tensor]


def packing_pays(model: nn.Module) -> bool:
    """Return whether packed weights are faster for a model, and fit into the free memory."""
    weights = list(model.parameters())
    plain = all(w.device.type == "cpu" and w.dtype == torch.bfloat16 for w in weights)
    if not plain or not torch.backends.mkldnn.is_available() or not _has_operators():
        return False
    size = sum(w.nbytes for w in weights)
    free = psutil.virtual_memory().available
    if 2 * size > free:
        log.info("weights not packed for decoding: %d bytes, %d bytes free", size, free)
        return False
    return True


def projection(linears: Sequence[nn.Linear], *, packed: bool) -> Projection:
    """Return a function that computes several linear layers of the same input side by side.

    Args:
        linears: layers with the same number of input features.
        packed: whether their weights are copied into a single packed one; else they are shared.
    """
    if packed:
        weights = [linear.weight.detach() for linear in linears]
        weight = torch.cat(weights) if len(weights) > 1 else weights[0]
        return _packed(weight, _joined_bias(linears))
    if len(linears) == 1:
        return _plain(linears[0])
    parts = [_plain(linear) for linear in linears]
    return lambda x: torch.cat([part(x) for part in parts], dim=-1)


def matrix(weight: Tensor, *, packed: bool) -> Projection:
    """Return a function that multiplies by the transpose of a matrix.

    Args:
        weight: the matrix, outputs by inputs.
        packed: whether it is copied into a packed one.
    """
    return _packed(weight, None) if packed else lambda x: F.linear(x, weight)


def _packed(weight: Tensor, bias: Tensor | None) -> Projection:
    own = _ops()._reorder_linear_weight(weight, 1)
    multiply = _ops()._linear_pointwise
    return lambda x: multiply(x, own, bias, "none", [], "")


def _plain(linear: nn.Linear) -> Projection:
    return lambda x: F.linear(x, linear.weight, linear.bias)


def _joined_bias(linears: Sequence[nn.Linear]) -> Tensor | None:
    if all(linear.bias is None for linear in linears):
        return None
    zeros = [linear.weight.new_zeros(linear.out_features) for linear in linears]
    pairs = zip(linears, zeros, strict=True)
    return torch.cat([zero if each.bias is None else each.bias.detach() for each, zero in pairs])


def _has_operators() -> bool:
    return hasattr(_ops(), "_reorder_linear_weight") and hasattr(_ops(), "_linear_pointwise")


def _ops() -> Any:
    return torch.ops.mkldnn
