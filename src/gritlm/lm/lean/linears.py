"""Linear layers for inference on a CPU, with weights in the layout of oneDNN where that pays."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gritlm.lm.lean.onednn import Projection, can_pack, joined_bias, pack
from gritlm.lm.quantization.layers import free_memory, joint_of

log = logging.getLogger(__name__)


def packing_pays(model: nn.Module) -> bool:
    """Return whether packed weights are faster for a model, and fit into the free memory."""
    weights = list(model.parameters())
    plain = all(w.device.type == "cpu" and w.dtype == torch.bfloat16 for w in weights)
    divided = any(hasattr(w, "to_local") for w in weights)  # among processes
    if divided or not plain or not can_pack():
        return False
    size = sum(w.nbytes for w in weights)
    free = free_memory()
    if 2 * size > free:
        log.info("weights not packed for decoding: %d bytes, %d bytes free", size, free)
        return False
    return True


def projection(linears: Sequence[nn.Linear], *, packed: bool) -> Projection:
    """Return a function that computes several linear layers of the same input side by side.

    Args:
        linears: layers with the same number of input features.
        packed: whether their weights are copied into a single packed one; else they are shared.
            Quantised weights are shared always.
    """
    if (joint := joint_of(linears)) is not None:
        return joint
    if packed:
        weights = [linear.weight.detach() for linear in linears]
        weight = torch.cat(weights) if len(weights) > 1 else weights[0]
        return pack(weight, joined_bias(linears))
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
    return pack(weight, None) if packed else lambda x: F.linear(x, weight)


def _plain(linear: nn.Linear) -> Projection:
    return lambda x: F.linear(x, linear.weight, linear.bias)
