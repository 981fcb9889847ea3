"""Views of the causal model for fast decoding (one-token steps).

On a CPU, a step multiplies a single row by every weight, so it is bound by memory bandwidth. oneDNN
reads weights in its own layout about twice as fast as plain ones (measured in docs/log.md). The
packed copy needs the memory of the weights again and is created at the first generated token.

On a GPU, a step is bound by kernel launches: a compiled step replays a CUDA graph.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import psutil
import torch
from torch import Tensor, nn

from gritlm.lm.attention import views

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)


class PackedLinear(nn.Module):
    """A linear layer with a copy of its weight in the layout of oneDNN; for inference only."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.packed = _ops()._reorder_linear_weight(linear.weight.detach(), 1)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return _ops()._linear_pointwise(x, self.packed, self.bias, "none", [], "")


def decoding_view(model: PreTrainedModel) -> Any:
    """Return a view with packed linear layers, or the model itself if packing does not pay."""
    if not _pays(model):
        return model
    view = views.shell(model)
    with torch.inference_mode():
        for parent in list(view.modules()):
            for name, child in list(parent.named_children()):
                if type(child) is nn.Linear:
                    parent._modules[name] = PackedLinear(child)
    return view


def compiled_view(model: PreTrainedModel) -> Any:
    """Return a view with a compiled forward pass, for caches of a fixed size."""
    view = views.shell(model)
    view.forward = torch.compile(view.forward, mode="reduce-overhead", dynamic=False)
    return view


def _pays(model: PreTrainedModel) -> bool:
    weights = list(model.parameters())
    plain = all(w.device.type == "cpu" and w.dtype == torch.bfloat16 for w in weights)
    if not plain or not torch.backends.mkldnn.is_available() or not _has_operators():
        return False
    size = sum(w.nbytes for w in weights)
    free = psutil.virtual_memory().available
    if 2 * size > free:
        log.info("weights not packed for decoding: %d bytes, %d bytes free", size, free)
        return False
    return True


def _has_operators() -> bool:
    return hasattr(_ops(), "_reorder_linear_weight") and hasattr(_ops(), "_linear_pointwise")


def _ops() -> Any:
    return torch.ops.mkldnn
