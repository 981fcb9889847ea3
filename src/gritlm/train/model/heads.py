"""LM heads and the auxiliary loss of expert routers.

An LM head is a weight if logits are a plain product, and a function if it has a bias, a soft cap,
a scale or an adapter of PEFT.

Shapes: N states, D hidden size, V vocabulary; B rows, L positions.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gritlm.lm.hub.tying import unwrapped
from gritlm.train.objectives.chunked_loss import Head


def head_of(model: Any, *, adapted: bool = True) -> Head:
    """Return the head of a causal LM: its weight (V, D), or a function (N, D) -> (N, V).

    Args:
        model: causal LM of transformers, with or without adapters in its modules.
        adapted: return the head with its adapter; otherwise the head below the adapter.
    """
    head = _module(model, adapted=adapted)
    config = model.config
    scaled = any((getattr(config, name, 1) or 1) != 1 for name in ("logit_scale", "logits_scaling"))
    capped = getattr(config, "final_logit_softcapping", None)
    if scaled or capped or not _is_product(head):
        return partial(logits, model, adapted=adapted)
    weight: Tensor = head.weight
    return weight


def logits(model: Any, hidden_ND: Tensor, *, adapted: bool = True) -> Tensor:
    """Return the logits (N, V) of states after the final norm.

    Args:
        model: causal LM of transformers, with or without adapters in its modules.
        hidden_ND: states after the final norm.
        adapted: use the head with its adapter; otherwise the head below the adapter.
    """
    config = model.config
    logits_NV = _module(model, adapted=adapted)(hidden_ND)
    logits_NV = logits_NV * (getattr(config, "logit_scale", None) or 1)  # Cohere
    logits_NV = logits_NV / (getattr(config, "logits_scaling", None) or 1)  # Granite
    cap = getattr(config, "final_logit_softcapping", None)  # Gemma
    return torch.tanh(logits_NV / cap) * cap if cap else logits_NV


def _module(model: Any, *, adapted: bool) -> Any:
    head = model.get_output_embeddings()
    return _trained_copy(head) if adapted else unwrapped(head)


def _trained_copy(head: nn.Module) -> nn.Module:
    """Return the copy that PEFT trains (``modules_to_save``), or the head itself."""
    copies = head._modules.get("modules_to_save")
    if copies is None:
        return head
    return copies[head.active_adapters[0]]  # type: ignore[index]


def _is_product(head: nn.Module) -> bool:
    # Weights of 4 and 8 bits are whole numbers; adapters are no subclasses of nn.Linear.
    plain = isinstance(head, nn.Linear) and head.weight.is_floating_point()
    return plain and head.bias is None


def router_weight(model: Any) -> float:
    """Return the weight of the auxiliary loss (``router_aux_loss_coef``); 0 without routers."""
    known = hasattr(sys.modules[type(model).__module__], "load_balancing_loss_func")
    return float(getattr(model.config, "router_aux_loss_coef", 0) or 0) if known else 0.0


def router_loss(model: Any, logits: tuple[Tensor, ...], real_BL: Tensor) -> Tensor:
    """Return how unevenly tokens are routed to experts (Switch Transformer, eq. 4 to 6).

    The model's own module in transformers computes it.

    Args:
        model: mixture of experts of transformers.
        logits: logits of the router of each layer (B * L, experts).
        real_BL: false for padding, which is left out.
    """
    loss = sys.modules[type(model).__module__].load_balancing_loss_func
    return loss(logits, model.num_experts, model.num_experts_per_tok, real_BL.long())
