"""The check that every trained parameter takes part in the loss."""

from __future__ import annotations

import re

from torch import nn

from gritlm.errors import TrainingError
from gritlm.train.run import collectives

# An expert with modules of its own gets no gradient in a step that routes no token to it.
_EXPERT = re.compile(r"(^|\.)experts\.\d+\.")
_SHOWN = 3


def require_gradients(module: nn.Module, step: int) -> None:
    """Refuse trained parameters without a gradient, after the backward passes of a step.

    A gradient of zeros is one: that of LoRA's A is zero as long as B is.

    Raises:
        TrainingError: naming them; no weight has been changed in this step.
    """
    missing = [
        name
        for name, parameter in module.named_parameters()
        if parameter.requires_grad and parameter.grad is None and not may_lack_gradient(name)
    ]
    if collectives.most(len(missing)):
        names = ", ".join(missing[:_SHOWN]) or "see the log of the other processes"
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise TrainingError(
            f"step {step}: no gradient reached {names}{more}, so they would not be trained; "
            "name them in [model] freeze, or take their modules out of the adapter"
        )


def may_lack_gradient(name: str) -> bool:
    """Return whether a parameter can get no gradient in a step although it is trained."""
    return _EXPERT.search(name) is not None
