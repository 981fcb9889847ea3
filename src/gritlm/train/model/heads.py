"""LM heads: a weight where logits are a mere product, a function where a head does more.

A head does more with a bias, a soft cap or a scale, or with an adapter of PEFT around it.

Shapes: N states, D hidden size, V vocabulary.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gritlm.lm.hub.tying import unwrapped
from gritlm.train.objectives.chunked_loss import Head


def head_of(model: Any, *, adapted: bool = True) -> Head:
    """Return the head of a causal LM: its weight (V, D), or states (N, D) -> logits (N, V).

    Args:
        model: with adapters in its modules or without.
        adapted: with its adapter; else the head that the adapter was put on.
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
    """Return the logits (N, V) of states after the final norm."""
    config = model.config
    found = _module(model, adapted=adapted)(hidden_ND)
    found = found * (getattr(config, "logit_scale", None) or 1)  # Cohere
    found = found / (getattr(config, "logits_scaling", None) or 1)  # Granite
    cap = getattr(config, "final_logit_softcapping", None)  # Gemma
    return torch.tanh(found / cap) * cap if cap else found


def _module(model: Any, *, adapted: bool) -> Any:
    head = model.get_output_embeddings()
    return _trained_copy(head) if adapted else unwrapped(head)


def _trained_copy(head: nn.Module) -> nn.Module:
    """Return the copy that ``modules_to_save`` of PEFT trains; any other head as it is."""
    copies = head._modules.get("modules_to_save")
    if copies is None:
        return head
    return copies[head.active_adapters[0]]  # type: ignore[index]


def _is_product(head: nn.Module) -> bool:
    # Weights of 4 and 8 bits are whole numbers; adapters are no subclasses of nn.Linear.
    plain = isinstance(head, nn.Linear) and head.weight.is_floating_point()
    return plain and head.bias is None
