"""LoRA adapters on every linear layer, through PEFT."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

from gritlm.errors import InputError, ModelError, did_you_mean
from gritlm.lm.hub.lora import WEIGHTS_FILE
from gritlm.train.config import ModelConfig

_NAMES = {"lora_target_modules": "target_modules", "lora_modules_to_save": "modules_to_save"}


def adapted(model: Any, said: ModelConfig, weights: str | Path | None, *, bf16: bool) -> Any:
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
    _require_magnitudes(made)
    for parameter in made.parameters():
        if parameter.requires_grad:  # modules_to_save are copies in the format of the base
            parameter.data = parameter.data.float()
    if bf16:
        _without_casts(made)
    return made


def _continued(model: Any, said: ModelConfig, weights: str) -> Any:
    from peft import PeftModel

    if Path(weights).is_dir() and not (Path(weights) / WEIGHTS_FILE).is_file():
        raise ModelError(f"{weights}: no adapter to go on from: no {WEIGHTS_FILE} in this folder")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            made = PeftModel.from_pretrained(model, weights, is_trainable=True)
    except Exception as error:  # a damaged folder raises errors of any kind
        reason = shorten(" ".join(str(error).split()), 300, placeholder=" ...")
        raise ModelError(f"{weights}: no adapter to go on from: {reason}") from error
    for warning in caught:
        if "missing adapter keys" in str(warning.message):
            raise ModelError(
                f"{weights}: no adapter to go on from: weights of some layers are missing"
            )
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    has = made.peft_config["default"].to_dict()
    for setting, key in _NAMES.items():
        _require_in(getattr(said, setting), has.get(key), setting, weights)
    if said.use_dora and not has.get("use_dora"):
        raise InputError(f"[model]: use_dora = true, but the adapter {weights} is without DoRA")
    return made


def _require_in(
    wanted: Sequence[str], has: Sequence[str] | set[str] | None, setting: str, adapter: str
) -> None:
    """Refuse a module that an adapter to go on from does not train."""
    if isinstance(wanted, str) or isinstance(has, str):  # all linear layers, or a pattern
        return
    if missing := sorted(set(wanted) - set(has or ())):
        raise InputError(
            f"[model]: {setting} has {missing[0]!r}, which the adapter {adapter} does not train; "
            "leave it out, or start without the adapter"
        )


def _adapted(model: Any, said: ModelConfig, weights: str | Path | None) -> Any:
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    if said.qlora:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    with warnings.catch_warnings():
        # PEFT asks transformers by the older name.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is", FutureWarning)
        # Its own tables for mixtures have names that its own matching does not find.
        warnings.filterwarnings("ignore", "The following (rank|alpha)_pattern keys", RuntimeWarning)
        if weights is not None:
            return _continued(model, said, str(weights))
        targets = said.lora_target_modules
        if not isinstance(targets, str):
            _require_modules(model, targets, "lora_target_modules")
        _require_modules(model, said.lora_modules_to_save, "lora_modules_to_save")
        experts = _stacked_weights(model) if targets == "all-linear" else []
        settings = LoraConfig(
            r=said.lora_r,
            lora_alpha=said.lora_alpha,
            lora_dropout=said.lora_dropout,
            target_modules=targets if isinstance(targets, str) else list(targets),
            target_parameters=experts or None,
            task_type="CAUSAL_LM",
            use_dora=said.use_dora,
            modules_to_save=list(said.lora_modules_to_save) or None,
        )
        try:
            return get_peft_model(model, settings)
        except ValueError as error:
            raise InputError(f"[model]: LoRA cannot be put on this model: {error}") from error


def _require_modules(model: Any, wanted: Sequence[str], setting: str) -> None:
    """Refuse a name that is the last part of no module's name; PEFT ignores it beside others."""
    names = [name for name, _ in model.named_modules()]
    for each in wanted:
        if not any(f".{name}".endswith(f".{each}") for name in names):
            last = {name.rpartition(".")[2] for name in names}
            known = [name for name in last if name and not name.isdigit()]
            raise InputError(
                f"[model]: {setting} has {each!r}, which is the name of no module"
                f"{did_you_mean(each, known)}"
            )


def _require_magnitudes(model: Any) -> None:
    """Refuse DoRA on a weight with a row of zeros: it divides by the row's norm."""
    for name, module in model.named_modules():
        if type(module).__name__.startswith("Dora") and (zeros := int((module.weight == 0).sum())):
            layer = name.partition(".lora_magnitude_vector")[0].removeprefix("base_model.model.")
            rows = "1 row" if zeros == 1 else f"{zeros} rows"
            raise InputError(
                f"[model]: DoRA divides by the norm of a row, and {layer} has {rows} of zeros; use "
                "use_dora = false, or leave it out of lora_target_modules"
            )


def _without_casts(model: Any) -> None:
    """Autocast brings adapters and states to one format; PEFT's own way there copies twice."""
    for module in model.modules():
        if hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = False


def _stacked_weights(model: Any) -> list[str]:
    """Names of weights with three dimensions: the experts of a mixture, stacked in one tensor."""
    names = [name for name, weight in model.named_parameters() if weight.ndim == 3]
    return sorted({".".join(name.split(".")[-2:]) for name in names})
