"""Module shells: a second view of a model over the very same tensors.

A shell is the module tree again, as new objects that hold the same parameters and buffers and a
configuration of their own. Nothing of the original is changed, and a call on one view can never
change what a call on the other does (transformers rewrites the shared config when ``is_causal``
is passed as an argument).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import PreTrainedConfig

from gritlm.lm.attention import packed

# Larger than any text: a "window" that never cuts. None would be refused by some models whose
# layers are declared as sliding ones, and switches rotary positions off in others.
NO_WINDOW = 1 << 30


def shell(module: nn.Module) -> Any:
    """A copy of the module tree that shares every tensor and owns everything else."""
    return _shell(module, {})


def bidirectional(decoder: nn.Module) -> Any:
    """A view of a decoder in which every token attends to all tokens of its text."""
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
    assert all(one is other for one, other in pairs), "both views hold the same tensors"
    return view


def configured(decoder: nn.Module, changes: Mapping[str, Any]) -> Any:
    """Return the view that plain transformers would load with other values in the configuration.

    Args:
        changes: values of the configuration; ``attn_implementation`` may be one of them.
    """
    view = shell(decoder)
    view.eval()
    for name, value in changes.items():
        setattr(view.config, f"_{name}" if name == "attn_implementation" else name, value)
    if "sliding_window" in changes:  # copied from the configuration when a layer is made
        for module in view.modules():
            if getattr(module, "sliding_window", None) is not None:
                module.sliding_window = changes["sliding_window"]
    return view


def grouped(model: Any) -> Any:
    """A view of a causal model that reads few tokens faster; the model itself if it cannot."""
    if not can_pack(model) or model.config._attn_implementation != "sdpa":
        return model
    packed.register_grouped()
    return attending(model, packed.GROUPED)


def attending(model: nn.Module, implementation: str) -> Any:
    """A view whose attention is one of transformers' registry."""
    view = shell(model)
    for module in view.modules():
        if hasattr(module, "config"):
            module.config._attn_implementation = implementation
    return view


def can_pack(decoder: nn.Module) -> bool:
    """Whether attention goes through transformers' registry, so that ours can stand in."""
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
    """Containers and configurations are copied, tensors and all else are shared."""
    if isinstance(value, PreTrainedConfig):
        return seen.setdefault(id(value), copy.deepcopy(value))
    if isinstance(value, nn.Module):
        return _shell(value, seen)
    return copy.copy(value) if isinstance(value, dict | list | set) else value


def _rehook(twin: nn.Module) -> None:
    """accelerate binds its hooks (several devices, offloading) to one object: bind them anew."""
    hook = twin.__dict__.pop("_hf_hook", None)
    if hook is None:
        return
    from accelerate.hooks import add_hook_to_module

    twin.__dict__.pop("_old_forward", None)
    twin.__dict__.pop("forward", None)
    add_hook_to_module(twin, copy.copy(hook))
