"""Views of the causal model for fast decoding (one-token steps).

On a CPU, models that the lean pass knows (:mod:`gritlm.lm.lean`) have that one. For others, a step
multiplies a single row by every weight, so it is bound by memory bandwidth. oneDNN reads weights in
its own layout about twice as fast as plain ones (measured in docs/log.md). The packed copy, which
the lean pass has too, needs the memory of the weights again and is created at the first use.

On a GPU, a step is bound by kernel launches: a compiled step replays a CUDA graph.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gritlm.lm.attention import views
from gritlm.lm.lean.linears import packing_pays, projection
from gritlm.lm.lean.view import adapted_lean_view, lean_view

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class PackedLinear(nn.Module):
    """A linear layer with a copy of its weight in the layout of oneDNN; for inference only."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self._multiply = projection([linear], packed=True)

    def forward(self, x: Tensor) -> Tensor:
        return self._multiply(x)


def decoding_view(model: PreTrainedModel, *, compiled: bool = False) -> Any:
    """Return the view that is fastest for single tokens.

    It has the lean forward pass if that pass knows the model, else packed linear layers if packing
    pays; else it is the model itself.

    Args:
        model: the model.
        compiled: whether few tokens are computed by compiled steps.
    """
    packed = packing_pays(model)
    with torch.inference_mode():
        lean = lean_view(model, packed=packed, compiled=compiled)
    if lean is not None:
        return lean
    if not packed or _has_adapter(model):
        return model
    view = views.shell(model)
    with torch.inference_mode():
        for parent in list(view.modules()):
            for name, child in list(parent.named_children()):
                if type(child) is nn.Linear:
                    parent._modules[name] = PackedLinear(child)
    return view


def adapted_view(model: PreTrainedModel, base_view: Any) -> Any:
    """Return the view of a model with plain LoRA that is fastest for single tokens.

    Args:
        model: the model.
        base_view: the fastest view of its base, whose packed weights are shared.
    """
    with torch.inference_mode():
        lean = adapted_lean_view(model, base_view)
    return model if lean is None else lean


def compiled_view(model: PreTrainedModel) -> Any:
    """Return a view with a compiled forward pass, for caches of a fixed size."""
    view = views.shell(model)
    view.forward = torch.compile(view.forward, mode="reduce-overhead", dynamic=False)
    return view


def _has_adapter(model: PreTrainedModel) -> bool:
    """Return whether an adapter is not merged: its layers read the weight of the layer below."""
    return any(hasattr(module, "base_layer") for module in model.modules())
