"""Layers of a decoder, and the share of them that a step keeps a graph of."""

from __future__ import annotations

from typing import Any

from torch import nn


def layer_names(decoder: nn.Module) -> tuple[str, ...]:
    """Return the names of a decoder's layers in order, such as ``layers.0.``; empty if unknown.

    Each is a part of the names of the layer's parameters and of no other ones, as ``freeze`` takes
    it.
    """
    config: Any = decoder.config
    count = getattr(config, "num_hidden_layers", 0)
    for name, module in decoder.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return tuple(f"{name}.{number}." for number in range(count))
    return ()


def graph_share(decoder: nn.Module) -> float:
    """Return the share of the layers whose states have a graph: from the first trained one on."""
    names = layer_names(decoder)
    trained = [name for name, each in decoder.named_parameters() if each.requires_grad]
    within = [
        next((number for number, layer in enumerate(names) if name.startswith(layer)), None)
        for name in trained
    ]
    first = min((number for number in within if number is not None), default=0)
    # A trained parameter outside of the layers may be that of the embeddings, below all of them.
    return 1.0 if None in within or not names else (len(names) - first) / len(names)
