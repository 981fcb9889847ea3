"""Handling of tied embeddings when an adapter changes them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from gritlm.errors import ModelError


def tied_head(model: Any, changed: Collection[str] | None = None) -> nn.Module | None:
    """Return the LM head if it shares its weight with the input embeddings and either changes.

    Args:
        model: the model with its LM head, possibly with layers wrapped by PEFT.
        changed: names of the tensors that an adapter changes; None if both may change.

    Raises:
        ModelError: for a shared weight that is kept on disk.
    """
    wrapped = model.get_input_embeddings(), model.get_output_embeddings()
    if None in wrapped:
        return None
    first, last = (unwrapped(layer) for layer in wrapped)
    if first.weight is not last.weight:
        return None
    names = tuple(f"{name}." for name, layer in model.named_modules() if layer in wrapped)
    if changed is not None and not any(change.startswith(names) for change in changed):
        return None
    if last.weight.is_meta:
        raise ModelError(
            "the adapter changes tied embeddings that are kept on disk; load the model without "
            "device_map"
        )
    return last


def unwrapped(layer: Any) -> Any:
    """Return the original layer inside of wrappers of PEFT."""
    for inner in ("original_module", "base_layer"):
        if hasattr(layer, inner):
            return unwrapped(getattr(layer, inner))
    return layer


def untie(head: Any) -> None:
    """Give an LM head a weight of its own."""
    head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)


def tie_if_equal(model: Any) -> None:
    """Tie the embeddings of a merged model again if they are equal, and update its config."""
    first = model.get_input_embeddings()
    last = model.get_output_embeddings()
    are_equal = torch.equal(first.weight, last.weight)
    if are_equal:
        last.weight = first.weight
    model.config.tie_word_embeddings = are_equal
    # transformers uses this table to omit tied tensors when saving.
    model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)
