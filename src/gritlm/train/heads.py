"""LM heads: weights where logits are a mere product, and the few that do more.

Shapes: N states, D hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def is_plain(model: Any) -> bool:
    """Whether logits are ``hidden @ weight.T`` and no more: no bias, soft cap or scale."""
    config = model.config
    scaled = any((getattr(config, name, 1) or 1) != 1 for name in ("logit_scale", "logits_scaling"))
    capped = getattr(config, "final_logit_softcapping", None)
    return not scaled and not capped and getattr(_head(model), "bias", None) is None


def weight(model: Any) -> Tensor:
    """(V, D)."""
    return _head(model).weight


def logits(model: Any, hidden_ND: Tensor) -> Tensor:
    """What the model makes of states after its final norm -> (N, V)."""
    config, found = model.config, _head(model)(hidden_ND)
    found = found * (getattr(config, "logit_scale", None) or 1)  # Cohere
    found = found / (getattr(config, "logits_scaling", None) or 1)  # Granite
    cap = getattr(config, "final_logit_softcapping", None)  # Gemma
    return torch.tanh(found / cap) * cap if cap else found


def _head(model: Any) -> Any:
    return model.get_output_embeddings()
