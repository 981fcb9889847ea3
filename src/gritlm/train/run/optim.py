"""Optimizer, learning rate over time, and the norm of the gradient."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import get_scheduler

from gritlm.train.config import TrainingConfig


def optimizer(module: nn.Module, said: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW over what is trained; no decay of biases and norms (one dimension)."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": said.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    # A schedule adds "initial_lr"; a checkpoint holds it, so it must be there to be restored.
    return torch.optim.AdamW(
        [{**group, "initial_lr": said.learning_rate} for group in groups if group["params"]],
        lr=said.learning_rate,
        betas=(said.adam_beta1, said.adam_beta2),
        eps=said.adam_epsilon,
    )


def schedule(
    moved: torch.optim.Optimizer, said: TrainingConfig, *, steps: int, done: int = 0
) -> Any:
    """Warm-up, then the decay of ``lr_scheduler_type``; standing after ``done`` steps."""
    share = said.warmup_steps
    warmup = round(share * steps) if share < 1 else round(share)
    name = {"constant": "constant_with_warmup"}.get(said.lr_scheduler_type, said.lr_scheduler_type)
    for group in moved.param_groups:
        group["lr"] = group["initial_lr"] = said.learning_rate
    made = get_scheduler(name, moved, num_warmup_steps=warmup, num_training_steps=steps)
    for group in moved.param_groups:
        group["lr"] = said.learning_rate * made.lr_lambdas[0](done)
    made.last_epoch = done
    return made


def clip(parameters: Iterable[nn.Parameter], limit: float) -> float:
    """Scale gradients down to the norm ``limit`` (0: not at all); their norm before that."""
    with_gradient = [p for p in parameters if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in with_gradient if p.grad is not None])
    whole: Tensor = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    if limit and torch.isfinite(whole):
        nn.utils.clip_grads_with_norm_(with_gradient, limit, whole)
    return float(whole)
