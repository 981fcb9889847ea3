"""Chunked cross-entropy and KL divergence from hidden states, without all logits in memory.

Shapes: N tokens, n tokens of a chunk, D hidden size, V vocabulary.

If the head is a weight, the gradients of a chunk follow directly on its logits, so no chunk is
computed twice. (``linear_cross_entropy`` of torch takes no weight per token, ignores autocast, and
rounds the loss to the dtype of the states.) If the head is a function (an adapter, a soft cap), the
backward pass recomputes each chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

Head = Tensor | Callable[[Tensor], Tensor]  # weight (V, D), or states (N, D) -> logits (N, V)


@dataclass(frozen=True, eq=False)
class Reference:
    """Reference model of the KL divergence; it gets no gradient.

    Attributes:
        hidden_ND: states of the reference at the same tokens; D may differ from the model's.
        head: head of the reference.
        share: weight of the divergence; the cross-entropy has weight 1.
    """

    hidden_ND: Tensor
    head: Head
    share: float

    @torch.no_grad()
    def logp(self, here: slice) -> Tensor:
        """Return the log-probabilities at a slice of the tokens (n, V), float32."""
        return _logp(self.head, self.hidden_ND[here])

    def to(self, dtype: torch.dtype) -> Reference:
        head = self.head.to(dtype) if isinstance(self.head, Tensor) else self.head
        return replace(self, hidden_ND=self.hidden_ND.to(dtype), head=head)


def cross_entropy(
    hidden_ND: Tensor, head: Head, target_N: Tensor, scale_N: Tensor, *, chunk: int
) -> Tensor:
    """Return the sum over tokens of ``scale * cross_entropy(logits, target)``, float32.

    Under autocast the logits are computed in its dtype; the softmax is always float32. Do not use
    float16: gradients are rounded before a gradient scaler could scale them.

    Args:
        hidden_ND: states of the model.
        head: weight (V, D) or function of states.
        target_N: target token of each state.
        scale_N: weight of each token.
        chunk: number of tokens whose logits are in memory.
    """
    return _summed(hidden_ND, head, _Targets(target_N, scale_N, None, chunk))[0]


def cross_entropy_and_kl(
    hidden_ND: Tensor,
    head: Head,
    target_N: Tensor,
    scale_N: Tensor,
    *,
    reference: Reference,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """Return the sum of ``scale * (cross_entropy + reference.share * KL(reference || model))``.

    The second value is the sum of ``scale * KL``, without gradient. Both are float32.

    Args:
        hidden_ND: states of the model.
        head: weight (V, D) or function of states.
        target_N: target token of each state.
        scale_N: weight of each token.
        reference: states and head of the reference, and the weight of the divergence.
        chunk: number of tokens whose logits are in memory.
    """
    return _summed(hidden_ND, head, _Targets(target_N, scale_N, reference, chunk))


def log_likelihood(hidden_ND: Tensor, head: Head, target_N: Tensor, *, chunk: int) -> Tensor:
    """Return the log-probability of each target (N,), float32; backward recomputes each chunk.

    Args:
        hidden_ND: states of the model.
        head: weight (V, D) or function of states.
        target_N: target token of each state.
        chunk: number of tokens whose logits are in memory.
    """

    def part(hidden_nD: Tensor, target_n: Tensor) -> Tensor:
        return _logp(head, hidden_nD).gather(1, target_n[:, None])[:, 0]

    pieces = zip(hidden_ND.split(chunk), target_N.split(chunk), strict=True)
    return torch.cat([checkpoint(part, *piece, use_reentrant=False) for piece in pieces])


@dataclass(frozen=True, eq=False)
class _Targets:
    """Target tokens with their weights, read in chunks.

    Attributes:
        target_N: target token of each state.
        scale_N: weight of each token.
        reference: states and head of the reference, and the weight of the divergence.
        chunk: number of tokens whose logits are in memory.
    """

    target_N: Tensor
    scale_N: Tensor
    reference: Reference | None
    chunk: int

    def slices(self, count: int) -> Iterator[slice]:
        """Yield the chunks of ``count`` states; at least one, so that a loss has a graph."""
        return (slice(at, at + self.chunk) for at in range(0, max(1, count), self.chunk))

    def part(self, here: slice) -> tuple[Tensor, Tensor]:
        """Return target tokens and weights of a chunk, of shape (n, 1)."""
        return self.target_N[here, None], self.scale_N[here, None]


def _summed(hidden_ND: Tensor, head: Head, targets: _Targets) -> tuple[Tensor, Tensor]:
    reference = targets.reference
    if isinstance(head, Tensor) and (reference is None or isinstance(reference.head, Tensor)):
        return _with_weight(hidden_ND, head, targets)
    return _with_function(hidden_ND, head, targets)


def _with_function(hidden_ND: Tensor, head: Head, targets: _Targets) -> tuple[Tensor, Tensor]:
    reference = targets.reference

    def part(hidden_nD: Tensor, here: slice) -> tuple[Tensor, Tensor]:
        target_n1, scale_n1 = targets.part(here)
        logp_nV = _logp(head, hidden_nD)
        loss = -(logp_nV.gather(1, target_n1) * scale_n1).sum()
        if reference is None:
            return loss, torch.zeros_like(loss)
        kl, _ = _divergence(logp_nV, reference.logp(here), scale_n1)
        return loss + reference.share * kl, kl.detach()

    loss, kl = torch.zeros(2, device=hidden_ND.device).unbind()
    for here in targets.slices(len(hidden_ND)):
        some, some_kl = checkpoint(part, hidden_ND[here], here, use_reentrant=False)
        loss = loss + some
        kl = kl + some_kl
    return loss, kl


def _logp(head: Head, hidden_nD: Tensor) -> Tensor:
    logits_nV = F.linear(hidden_nD, head) if isinstance(head, Tensor) else head(hidden_nD)
    return logits_nV.log_softmax(dim=-1, dtype=torch.float32)


def _with_weight(hidden_ND: Tensor, weight_VD: Tensor, targets: _Targets) -> tuple[Tensor, Tensor]:
    device = hidden_ND.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden_ND = hidden_ND.to(dtype)
        weight_VD = weight_VD.to(dtype)
        if targets.reference is not None:
            targets = replace(targets, reference=targets.reference.to(dtype))
    with torch.autocast(device, enabled=False):
        wanted = torch.is_grad_enabled()
        return _Chunked.apply(hidden_ND, weight_VD, targets, wanted)


class _Chunked(torch.autograd.Function):
    """Chunked loss with gradients computed in the forward pass; backward only scales them."""

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets: _Targets, wanted: bool
    ) -> tuple[Tensor, Tensor]:
        reference = targets.reference
        to_hidden, to_weight = (wanted and needed for needed in ctx.needs_input_grad[:2])
        loss, kl = torch.zeros(2, device=hidden_ND.device).unbind()
        hidden_grad = torch.empty_like(hidden_ND) if to_hidden else None
        weight_grad = torch.zeros_like(weight_VD, dtype=torch.float32) if to_weight else None
        for here in targets.slices(len(hidden_ND)):
            target_n1, scale_n1 = targets.part(here)
            logp_nV = _logp(weight_VD, hidden_ND[here])
            loss = loss - (logp_nV.gather(1, target_n1) * scale_n1).sum()
            goal_nV = None
            if reference is not None:
                part, goal_nV = _divergence(logp_nV, reference.logp(here), scale_n1)
                kl = kl + part
            if not (to_hidden or to_weight):
                continue
            gradient_nV = _logit_gradient(
                logp_nV, target_n1, goal_nV, reference.share if reference else 0
            )
            gradient_nV = gradient_nV.mul_(scale_n1).to(weight_VD.dtype)
            if hidden_grad is not None:
                hidden_grad[here] = gradient_nV @ weight_VD
            if weight_grad is not None:
                _add_product(weight_grad, gradient_nV.T, hidden_ND[here])
        ctx.format = weight_VD.dtype
        ctx.save_for_backward(hidden_grad, weight_grad)
        ctx.mark_non_differentiable(kl)
        return loss + reference.share * kl if reference else loss, kl

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        slope = slopes[0]
        hidden_grad, weight_grad = ctx.saved_tensors
        to_hidden = None if hidden_grad is None else hidden_grad * slope
        to_weight = None if weight_grad is None else (weight_grad * slope).to(ctx.format)
        return to_hidden, to_weight, None, None


def _divergence(logp_nV: Tensor, goal_nV: Tensor, scale_n1: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of ``scale * KL(goal || p)``, and the goal as probabilities.

    Both inputs are log-probabilities.
    ``goal_nV`` is overwritten.
    """
    gap_nV = goal_nV - logp_nV
    goal_nV = goal_nV.exp_()
    return (gap_nV.mul_(goal_nV).sum(dim=1, keepdim=True) * scale_n1).sum(), goal_nV


def _logit_gradient(
    logp_nV: Tensor, target_n1: Tensor, goal_nV: Tensor | None, share: float
) -> Tensor:
    """Return d(cross-entropy + share * KL(goal || p)) / d(logits); overwrite ``logp``."""
    gradient_nV = logp_nV.exp_()
    if goal_nV is not None:
        gradient_nV = gradient_nV.mul_(1 + share).sub_(goal_nV, alpha=share)
    ones_n1 = torch.ones_like(target_n1, dtype=gradient_nV.dtype)
    return gradient_nV.scatter_add_(1, target_n1, -ones_n1)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add ``left @ right`` to ``total``, without a temporary if the dtypes are equal."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
