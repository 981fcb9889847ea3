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
    """Raise an error if a trained parameter has no gradient after the backward passes of a step.

    A gradient of zeros counts: that of LoRA's A is zero as long as B is zero.

    Args:
        module: module that is trained.
        step: number of the step, for the message.

    Raises:
        TrainingError: the message names the parameters; this step has changed no weight.
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
    """Return whether a trained parameter may have no gradient in a step."""
    return _EXPERT.search(name) is not None
