"""Views of a model: module trees with their own configuration that share all tensors.

A view consists of new module objects with the same parameters and buffers. The original is not
changed, and calls on different views are independent: passing ``is_causal`` as an argument instead
would make transformers change the configuration of the model.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import PreTrainedConfig

from gritlm.lm.attention import packed

# A window larger than any text. Some models with sliding layers refuse None, and others disable
# rotary positions for it.
NO_WINDOW = 1 << 30


def shell(module: nn.Module) -> Any:
    """Return a copy of a module tree that shares every tensor and owns everything else."""
    return _shell(module, {})


def bidirectional(decoder: nn.Module) -> Any:
    """Return a view of a decoder in which every token attends to its whole text."""
    view = shell(decoder)
    view.eval()
    config = view.config
    config.is_causal = False
    if getattr(config, "sliding_window", None) is not None:
        config.sliding_window = NO_WINDOW
    if can_pack(decoder):
        packed.register()
        config._attn_implementation = packed.PACKED
    for module in view.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = False
        if getattr(module, "sliding_window", None) is not None:
            module.sliding_window = NO_WINDOW
    pairs = zip(decoder.parameters(), view.parameters(), strict=True)
    assert all(one is other for one, other in pairs), "the views must share their tensors"
    return view


def configured(decoder: nn.Module, changes: Mapping[str, Any]) -> Any:
    """Return the view that transformers would load with other values in the configuration.

    Args:
        decoder: the decoder.
        changes: values of the configuration, including ``attn_implementation``.
    """
    view = shell(decoder)
    view.eval()
    for name, value in changes.items():
        setattr(view.config, f"_{name}" if name == "attn_implementation" else name, value)
    if "sliding_window" in changes:  # layers copy it from the configuration
        for module in view.modules():
            if getattr(module, "sliding_window", None) is not None:
                module.sliding_window = changes["sliding_window"]
    return view


def grouped(model: Any) -> Any:
    """Return a view that is faster for few tokens, or the model itself if it has none."""
    if not can_pack(model) or model.config._attn_implementation != "sdpa":
        return model
    packed.register_grouped()
    return attending(model, packed.GROUPED)


def attending(model: nn.Module, implementation: str) -> Any:
    """Return a view with an attention implementation of transformers' registry."""
    view = shell(model)
    for module in view.modules():
        if hasattr(module, "config"):
            module.config._attn_implementation = implementation
    return view


def can_pack(decoder: nn.Module) -> bool:
    """Return whether a decoder uses transformers' attention registry."""
    return bool(getattr(decoder, "_supports_attention_backend", False))


def _shell(module: nn.Module, seen: dict[int, Any]) -> Any:
    if id(module) in seen:
        return seen[id(module)]
    twin: nn.Module = object.__new__(type(module))
    seen[id(module)] = twin
    for name, value in module.__dict__.items():
        twin.__dict__[name] = _owned(value, seen) if name != "_modules" else {}
    for name, child in module._modules.items():
        twin._modules[name] = None if child is None else _shell(child, seen)
    _rehook(twin)
    return twin


def _owned(value: Any, seen: dict[int, Any]) -> Any:
    """Return a copy of a container or a configuration, a view of a module, else the value."""
    if isinstance(value, PreTrainedConfig):
        return seen.setdefault(id(value), copy.deepcopy(value))
    if isinstance(value, nn.Module):
        return _shell(value, seen)
    return copy.copy(value) if isinstance(value, dict | list | set) else value


def _rehook(twin: nn.Module) -> None:
    """Bind the hooks of accelerate (several devices, offloading) to a copied module."""
    hook = twin.__dict__.pop("_hf_hook", None)
    if hook is None:
        return
    from accelerate.hooks import add_hook_to_module

    twin.__dict__.pop("_old_forward", None)
    twin.__dict__.pop("forward", None)
    add_hook_to_module(twin, copy.copy(hook))
