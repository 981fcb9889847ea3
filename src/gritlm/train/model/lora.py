"""LoRA and DoRA adapters through PEFT."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gritlm.errors import InputError, ModelError, did_you_mean, one_line
from gritlm.lm.hub.lora import WEIGHTS_FILE
from gritlm.train.config import ModelConfig

_NAMES = {"lora_target_modules": "target_modules", "lora_modules_to_save": "modules_to_save"}


def add_adapters(model: Any, config: ModelConfig, weights: str | Path | None, *, bf16: bool) -> Any:
    """Return the model with trainable adapters, or itself if the settings have none.

    Args:
        model: causal LM of transformers.
        config: settings of the model.
        weights: folder or hub id of adapters to continue, with their rank; None for new ones.
        bf16: whether the model runs under autocast to bfloat16.

    Raises:
        InputError: the adapters do not fit the model or the settings.
        ModelError: the adapters to continue are missing or belong to another model.
    """
    if not config.adapted:
        return model
    peft_model = _with_adapters(model, config, weights)
    _require_magnitudes(peft_model)
    for parameter in peft_model.parameters():
        if parameter.requires_grad:  # modules_to_save are copies in the dtype of the base
            parameter.data = parameter.data.float()
    if bf16:
        _disable_casts(peft_model)
    return peft_model


def _load_trainable(model: Any, config: ModelConfig, weights: str) -> Any:
    from peft import PeftModel

    if Path(weights).is_dir() and not (Path(weights) / WEIGHTS_FILE).is_file():
        raise ModelError(f"{weights}: no adapter to go on from: no {WEIGHTS_FILE} in this folder")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            peft_model = PeftModel.from_pretrained(model, weights, is_trainable=True)
    except Exception as error:  # a damaged folder raises errors of any kind
        reason = one_line(error, limit=300)
        raise ModelError(f"{weights}: no adapter to go on from: {reason}") from error
    for warning in caught:
        if "missing adapter keys" in str(warning.message):
            raise ModelError(
                f"{weights}: no adapter to go on from: weights of some layers are missing"
            )
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    has = peft_model.peft_config["default"].to_dict()
    for setting, key in _NAMES.items():
        _require_in(getattr(config, setting), has.get(key), setting, weights)
    if config.use_dora and not has.get("use_dora"):
        raise InputError(f"[model]: use_dora = true, but the adapter {weights} is without DoRA")
    return peft_model


def _require_in(
    wanted: Sequence[str], has: Sequence[str] | set[str] | None, setting: str, adapter: str
) -> None:
    """Raise an error for a module that the adapter to continue does not train."""
    if isinstance(wanted, str) or isinstance(has, str):  # all linear layers, or a pattern
        return
    if missing := sorted(set(wanted) - set(has or ())):
        raise InputError(
            f"[model]: {setting} has {missing[0]!r}, which the adapter {adapter} does not train; "
            "leave it out, or start without the adapter"
        )


def _with_adapters(model: Any, config: ModelConfig, weights: str | Path | None) -> Any:
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    if config.qlora:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    with warnings.catch_warnings():
        # PEFT uses the older name of transformers.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is", FutureWarning)
        # PEFT's tables for mixtures have names that its own matching does not find.
        warnings.filterwarnings("ignore", "The following (rank|alpha)_pattern keys", RuntimeWarning)
        if weights is not None:
            return _load_trainable(model, config, str(weights))
        targets = config.lora_target_modules
        if not isinstance(targets, str):
            _require_modules(model, targets, "lora_target_modules")
        _require_modules(model, config.lora_modules_to_save, "lora_modules_to_save")
        experts = _stacked_weights(model) if targets == "all-linear" else []
        settings = LoraConfig(
            r=config.lora_r,
            lora_alpha=config.lora_alpha,
            lora_dropout=config.lora_dropout,
            target_modules=targets if isinstance(targets, str) else list(targets),
            target_parameters=experts or None,
            task_type="CAUSAL_LM",
            use_dora=config.use_dora,
            modules_to_save=list(config.lora_modules_to_save) or None,
        )
        try:
            return get_peft_model(model, settings)
        except ValueError as error:
            raise InputError(f"[model]: LoRA cannot be put on this model: {error}") from error


def _require_modules(model: Any, wanted: Sequence[str], setting: str) -> None:
    """Raise an error for an unknown module name; PEFT ignores it if other names match."""
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
    """Raise an error for DoRA on a weight with a row of zeros: it divides by the row's norm."""
    for name, module in model.named_modules():
        if type(module).__name__.startswith("Dora") and (zeros := int((module.weight == 0).sum())):
            layer = name.partition(".lora_magnitude_vector")[0].removeprefix("base_model.model.")
            rows = "1 row" if zeros == 1 else f"{zeros} rows"
            raise InputError(
                f"[model]: DoRA divides by the norm of a row, and {layer} has {rows} of zeros; use "
                "use_dora = false, or leave it out of lora_target_modules"
            )


def _disable_casts(model: Any) -> None:
    """Turn off PEFT's casts: autocast does the same, and PEFT would copy twice."""
    for module in model.modules():
        if hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = False


def _stacked_weights(model: Any) -> list[str]:
    """Return the names of 3-D weights: the experts of a mixture, stacked in one tensor."""
    names = [name for name, weight in model.named_parameters() if weight.ndim == 3]
    return sorted({".".join(name.split(".")[-2:]) for name in names})
