"""Optimizer, learning rate schedule and gradient clipping."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import get_scheduler

from gritlm.train.config import TrainingConfig


def optimizer(module: nn.Module, training: TrainingConfig) -> torch.optim.Optimizer:
    """Return AdamW over the trained parameters; no weight decay for biases and norms."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": training.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    # A schedule adds "initial_lr" and a checkpoint holds it; restoring needs the key.
    return torch.optim.AdamW(
        [{**group, "initial_lr": training.learning_rate} for group in groups if group["params"]],
        lr=training.learning_rate,
        betas=(training.adam_beta1, training.adam_beta2),
        eps=training.adam_epsilon,
    )


def schedule(
    optimizer: torch.optim.Optimizer, training: TrainingConfig, *, steps: int, done: int = 0
) -> Any:
    """Return the schedule: warm-up, then the decay of ``lr_scheduler_type``.

    Args:
        optimizer: optimizer whose learning rate is set.
        training: settings of the run.
        steps: total number of steps.
        done: steps already taken; the schedule continues after them.
    """
    warmup_steps = training.warmup_steps
    warmup = round(warmup_steps * steps) if warmup_steps < 1 else round(warmup_steps)
    name = {"constant": "constant_with_warmup"}.get(
        training.lr_scheduler_type, training.lr_scheduler_type
    )
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] = training.learning_rate
    scheduler = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=steps)
    for group in optimizer.param_groups:
        group["lr"] = training.learning_rate * scheduler.lr_lambdas[0](done)
    scheduler.last_epoch = done
    return scheduler


def clip(parameters: Iterable[nn.Parameter], limit: float) -> float:
    """Clip the gradients to the norm ``limit`` (0: no clipping); return the norm before."""
    with_gradient = [p for p in parameters if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in with_gradient if p.grad is not None])
    whole: Tensor = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    if limit and torch.isfinite(whole):
        nn.utils.clip_grads_with_norm_(with_gradient, limit, whole)
    return float(whole)
