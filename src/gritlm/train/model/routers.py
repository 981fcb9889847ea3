"""The auxiliary loss of a mixture of experts, as its own model class computes it."""

from __future__ import annotations

import sys
from typing import Any

from torch import Tensor


def share(model: Any) -> float:
    """What the auxiliary loss weighs (``router_aux_loss_coef``); 0 where there are no routers."""
    known = hasattr(sys.modules[type(model).__module__], "load_balancing_loss_func")
    return float(getattr(model.config, "router_aux_loss_coef", 0) or 0) if known else 0.0


def balance(model: Any, logits: tuple[Tensor, ...], real_BL: Tensor) -> Tensor:
    """How unevenly tokens are spread over experts (Switch Transformer, eq. 4 to 6).

    Args:
        logits: of each layer's router (B * L, experts).
        real_BL: false for padding, which does not count.
    """
    loss = sys.modules[type(model).__module__].load_balancing_loss_func
    return loss(logits, model.num_experts, model.num_experts_per_tok, real_BL.long())
