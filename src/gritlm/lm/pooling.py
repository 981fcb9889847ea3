"""Pooling of hidden states.

Shapes: B texts, L positions, D hidden size. ``mask_BL`` is 1 where a token is pooled; every row
has at least one such token. All results are float32, for states of any dtype
(GritLM paper section 3; reference code, ``GritLM.pooling``).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Pooling = Callable[[Tensor, Tensor], Tensor]


def mean(hidden_BLD: Tensor, mask_BL: Tensor) -> Tensor:
    """Return the mean (B, D) over the pooled tokens."""
    weight_BL = mask_BL.to(torch.float32)
    return _weighted(hidden_BLD, weight_BL)


def weightedmean(hidden_BLD: Tensor, mask_BL: Tensor) -> Tensor:
    """Return the mean (B, D) over the pooled tokens with weights 1, 2, 3, ... (SGPT, eq. 2)."""
    weight_BL = mask_BL.to(torch.float32)
    return _weighted(hidden_BLD, weight_BL * weight_BL.cumsum(dim=1))


def lasttoken(hidden_BLD: Tensor, mask_BL: Tensor) -> Tensor:
    """Return the state (B, D) of the last pooled token."""
    position_L = torch.arange(mask_BL.shape[1], device=mask_BL.device)
    last_B = (mask_BL.to(torch.long) * position_L).argmax(dim=1)
    row_B = torch.arange(len(last_B), device=mask_BL.device)
    return hidden_BLD[row_B, last_B].to(torch.float32)


def cls(hidden_BLD: Tensor, mask_BL: Tensor) -> Tensor:
    """Return the state (B, D) at position 0, independent of the mask."""
    del mask_BL
    return hidden_BLD[:, 0].to(torch.float32)


def _weighted(hidden_BLD: Tensor, weight_BL: Tensor) -> Tensor:
    total_BD = torch.einsum("bld,bl->bd", hidden_BLD.to(torch.float32), weight_BL)
    return total_BD / weight_BL.sum(dim=1, keepdim=True)


def normalise(vector_BD: Tensor) -> Tensor:
    """Return each vector divided by its length (at least 1e-12), in float32."""
    return torch.nn.functional.normalize(vector_BD.to(torch.float32), dim=-1)


POOLING: dict[str, Pooling] = {
    "mean": mean,
    "weightedmean": weightedmean,
    "lasttoken": lasttoken,
    "cls": cls,
}
