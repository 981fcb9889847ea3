"""Cross-entropy from hidden states without the logits of all tokens in memory.

Shapes: N tokens, D hidden size, V vocabulary.

The gradients of a chunk are taken right after its logits, so no chunk is computed twice. torch has
``linear_cross_entropy`` for it, which takes no weight per token, does not see autocast, and rounds
the loss to the format of the states.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def cross_entropy(
    hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor, scale_N: Tensor, *, chunk: int
) -> Tensor:
    """Sum over tokens of ``scale * cross_entropy(hidden @ weight.T, target)``, float32.

    Under autocast logits are multiplied in its format; the softmax is always float32. Not for
    float16: gradients are rounded before a gradient scaler could lift them.
    """
    device = hidden_ND.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden_ND, weight_VD = hidden_ND.to(dtype), weight_VD.to(dtype)
    with torch.autocast(device, enabled=False):
        wanted = torch.is_grad_enabled()
        return _Chunked.apply(hidden_ND, weight_VD, target_N, scale_N, chunk, wanted)


class _Chunked(torch.autograd.Function):
    """Computes its gradients in the forward pass; backward only scales them."""

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor, scale_N: Tensor,
        chunk: int, wanted: bool,
    ) -> Tensor:  # fmt: skip
        to_hidden, to_weight = (wanted and needed for needed in ctx.needs_input_grad[:2])
        loss = torch.zeros((), device=hidden_ND.device)
        hidden_grad = torch.empty_like(hidden_ND) if to_hidden else None
        weight_grad = torch.zeros_like(weight_VD, dtype=torch.float32) if to_weight else None
        for start in range(0, len(hidden_ND), chunk):
            here = slice(start, start + chunk)
            target_n1, scale_n1 = target_N[here, None], scale_N[here, None]
            logp_nV = F.linear(hidden_ND[here], weight_VD).log_softmax(dim=-1, dtype=torch.float32)
            loss -= (logp_nV.gather(1, target_n1) * scale_n1).sum()
            if not (to_hidden or to_weight):
                continue
            slope_nV = logp_nV.exp_().scatter_add_(1, target_n1, -torch.ones_like(scale_n1))
            slope_nV = slope_nV.mul_(scale_n1).to(weight_VD.dtype)
            if hidden_grad is not None:
                hidden_grad[here] = slope_nV @ weight_VD
            if weight_grad is not None:
                _add_product(weight_grad, slope_nV.T, hidden_ND[here])
        ctx.format = weight_VD.dtype
        ctx.save_for_backward(hidden_grad, weight_grad)
        return loss

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = slopes
        hidden_grad, weight_grad = ctx.saved_tensors
        to_hidden = None if hidden_grad is None else hidden_grad * slope
        to_weight = None if weight_grad is None else (weight_grad * slope).to(ctx.format)
        return to_hidden, to_weight, None, None, None, None


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right; without a temporary where the formats are the same."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
