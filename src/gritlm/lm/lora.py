"""A PEFT adapter: which base it was made for, whether it fits a model, and merging the two.

Plain LoRA is merged here, in float32 and then rounded to the number format of the weights. PEFT
merges all else; importing it and attaching its layers takes longer than loading the default model.

Shapes: O outputs of a layer, I inputs, R rank.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from gritlm.errors import ModelError
from gritlm.lm.settings import read_object

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
FINGERPRINT = "base_fingerprint"  # in the metadata of the weights file

_FRONT, _A, _B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"

# Keys of a configuration that do not change what plain LoRA computes. With any other one set, or
# with those below set otherwise, the adapter is PEFT's to merge.
_HARMLESS = {
    "auto_mapping", "base_model_name_or_path", "exclude_modules", "inference_mode",
    "layers_pattern", "layers_to_transform", "lora_alpha", "lora_dropout", "megatron_core",
    "peft_version", "qalora_group_size", "r", "revision", "target_modules", "task_type",
}  # fmt: skip
_PLAIN: dict[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "init_lora_weights": (True, False),  # others change the base
}


def is_adapter_folder(source: str) -> bool:
    return (Path(source) / CONFIG_FILE).is_file()


def base_named(adapter: str) -> str | None:
    """The base model that an adapter (a folder or hub id) names.

    Raises:
        ModelError: when its configuration is no JSON object.
    """
    return _config(adapter).get("base_model_name_or_path") or None


def fingerprint(model: nn.Module) -> str:
    """What tells a base from another of its size: a sum over its vectors (norms, biases).

    Quantisation and number formats leave these as they are, so the 4-bit and the original weights
    of one model have the same fingerprint. Weights trained further may have it too.
    """
    found = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        if parameter.ndim == 1:
            found.update(name.encode())
            value = parameter.detach().to(device="cpu", dtype=torch.bfloat16)
            found.update(value.contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def merged(model: Any, adapter: str) -> Any:
    """The model with an adapter added to its weights, in their number format; changed in place.

    Args:
        model: with its LM head, whose names an adapter has.
        adapter: folder or hub id.

    Raises:
        ModelError: for an adapter that is incomplete, damaged, or made for another base.
        OSError, SafetensorError: for files that cannot be fetched or read.
    """
    config, weights = _config(adapter), _file(adapter, WEIGHTS_FILE)
    _require_fit(model, adapter, config, weights)
    layers = _layers(model, config, load_file(weights)) if _is_plain(config) else None
    if layers is None:
        return _merged_by_peft(model, adapter, config)
    for name, layer, one_RI, other_OR in layers:
        _merge(layer, one_RI, other_OR, config["lora_alpha"] / config["r"], f"{adapter}: {name}")
    return model


def _merge(layer: nn.Linear, one_RI: Tensor, other_OR: Tensor, scale: float, name: str) -> None:
    place = layer.weight.device
    one_RI, other_OR = (value.to(device=place, dtype=torch.float32) for value in (one_RI, other_OR))
    if not (torch.isfinite(one_RI).all() and torch.isfinite(other_OR).all()):
        raise ModelError(f"{name}: the adapter has weights that are no numbers; it is damaged")
    whole_OI = torch.addmm(layer.weight.data.float(), other_OR, one_RI, alpha=scale)
    layer.weight.data = whole_OI.to(layer.weight.dtype)


Layer = tuple[str, nn.Linear, Tensor, Tensor]


def _layers(
    model: nn.Module, config: dict[str, Any], tensors: dict[str, Tensor]
) -> list[Layer] | None:
    """The layers to change with their A and B; None for a case that PEFT has to judge.

    Such are layers of 4 bits, kept on disk or of three dimensions, and an adapter without tensors
    for a layer that its configuration names.
    """
    targets, found = config.get("target_modules"), []
    if not isinstance(targets, list):
        return None
    ends = tuple(f".{target}" for target in targets)
    for name, layer in model.named_modules():
        if f".{name}".endswith(ends):
            pair = [tensors.get(f"{_FRONT}{name}{part}") for part in (_A, _B)]
            if type(layer) is not nn.Linear or layer.weight.is_meta or None in pair:
                return None
            found.append((name, layer, *pair))
    return found if 2 * len(found) == len(tensors) else None


def _is_plain(config: dict[str, Any]) -> bool:
    told = all(config.get(name) in values for name, values in _PLAIN.items())
    return told and not any(
        value for name, value in config.items() if name not in {*_HARMLESS, *_PLAIN}
    )


def _require_fit(model: nn.Module, adapter: str, config: dict[str, Any], weights: Path) -> None:
    """Refuse an adapter of other sizes, or whose file says that it belongs to another base."""
    with safe_open(weights, framework="pt") as file:
        told = (file.metadata() or {}).get(FINGERPRINT)
        shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    why = next(_misfits(model, shapes), None)
    if why is None and told is not None and not _has_meta(model) and told != fingerprint(model):
        why = "the sizes are the same, the weights are others"
    if why is not None:
        raise _foreign(adapter, config, _called(model), why)


def _foreign(adapter: str, config: dict[str, Any], model: str, why: str) -> ModelError:
    base = config.get("base_model_name_or_path") or "another model"
    return ModelError(
        f"{adapter}: this adapter was made for {base}, which {model} is not ({why}); load it with "
        "its own base"
    )


def _misfits(model: nn.Module, shapes: dict[str, tuple[int, ...]]) -> Iterator[str]:
    for key, shape in shapes.items():
        if key.endswith((_A, _B)):
            name = key.removeprefix(_FRONT).removesuffix(_A).removesuffix(_B)
            layer = _layer(model, name)
            if layer is None:
                yield f"it has no layer {name}"
            elif isinstance(layer, nn.Linear):
                side, has, wanted = (
                    ("inputs", layer.in_features, shape[1])
                    if key.endswith(_A)
                    else ("outputs", layer.out_features, shape[0])
                )
                if has != wanted:
                    yield f"its {name} has {has} {side}, the adapter's {wanted}"


def _layer(model: nn.Module, name: str) -> nn.Module | None:
    try:
        return model.get_submodule(name.replace(".base_layer", ""))
    except AttributeError:
        return None


def _has_meta(model: nn.Module) -> bool:
    return any(parameter.is_meta for parameter in model.parameters())


def _called(model: Any) -> str:
    return f"the {type(model).__name__} {getattr(model, 'name_or_path', '')}".rstrip()


def _merged_by_peft(model: Any, adapter: str, config: dict[str, Any]) -> Any:
    from peft import PeftModel

    name = _called(model)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        adapted = PeftModel.from_pretrained(model, adapter)
        made = adapted.merge_and_unload(safe_merge=True)
    if any("missing adapter keys" in str(warning.message) for warning in said):
        raise _foreign(adapter, config, name, "the adapter has nothing for some of its layers")
    return made


def _config(adapter: str) -> dict[str, Any]:
    return read_object(_file(adapter, CONFIG_FILE))


def _file(adapter: str, name: str) -> Path:
    """A file of an adapter, from its folder or the hub."""
    folder = Path(adapter)
    if folder.is_dir():
        if not (folder / name).is_file():
            raise ModelError(f"{adapter}: no {name} in this adapter folder")
        return folder / name
    from transformers.utils.hub import cached_file

    return Path(str(cached_file(adapter, name)))
