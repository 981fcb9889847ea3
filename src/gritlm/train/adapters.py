"""LoRA adapters on every linear layer, through PEFT."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from gritlm.errors import InputError, ModelError
from gritlm.train.config import Model


def adapted(model: Any, said: Model, weights: str | Path | None, *, bf16: bool) -> Any:
    """The model with adapters if wanted: on all linear layers, experts of a mixture included.

    Args:
        weights: adapters to go on from, as they are (their rank too).
        bf16: whether it runs under autocast.

    Raises:
        InputError: when they cannot be put on this model.
        ModelError: for adapters to go on from that are not there or belong to another model.
    """
    if not said.adapted:
        return model
    made = _adapted(model, said, weights)
    if bf16:
        _without_casts(made)
    return made


def _adapted(model: Any, said: Model, weights: str | Path | None) -> Any:
    from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training

    if said.qlora:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    with warnings.catch_warnings():
        # PEFT asks transformers by the older name.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is", FutureWarning)
        # Its own tables for mixtures have names that its own matching does not find.
        warnings.filterwarnings("ignore", "The following (rank|alpha)_pattern keys", RuntimeWarning)
        if weights is not None:
            try:
                return PeftModel.from_pretrained(model, str(weights), is_trainable=True)
            except (ValueError, OSError, RuntimeError) as error:
                reason = " ".join(str(error).split())[:300]
                raise ModelError(f"{weights}: no adapter to go on from: {reason}") from error
        targets = said.lora_target_modules
        experts = _stacked_weights(model) if targets == "all-linear" else []
        settings = LoraConfig(
            r=said.lora_r, lora_alpha=said.lora_alpha, lora_dropout=said.lora_dropout,
            target_modules=targets if isinstance(targets, str) else list(targets),
            target_parameters=experts or None, task_type="CAUSAL_LM",
        )  # fmt: skip
        try:
            return get_peft_model(model, settings)
        except ValueError as error:
            raise InputError(f"[model]: LoRA cannot be put on this model: {error}") from error


def _without_casts(model: Any) -> None:
    """Autocast brings adapters and states to one format; PEFT's own way there copies twice."""
    for module in model.modules():
        if hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = False


def _stacked_weights(model: Any) -> list[str]:
    """Names of weights with three dimensions: the experts of a mixture, stacked in one tensor."""
    names = [name for name, weight in model.named_parameters() if weight.ndim == 3]
    return sorted({".".join(name.split(".")[-2:]) for name in names})
