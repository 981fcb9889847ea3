"""A PEFT adapter's files: its configuration, its tensors, and the base they were made for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from gritlm.errors import ModelError
from gritlm.lm.hub import vocabulary
from gritlm.lm.hub.model_config import read_object

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
FINGERPRINT = "base_fingerprint"  # in the metadata of the weights file

PREFIX = "base_model.model."
LORA_A = ".lora_A.weight"
LORA_B = ".lora_B.weight"


def is_adapter_folder(source: str) -> bool:
    return (Path(source) / CONFIG_FILE).is_file()


def base_named(adapter: str) -> str | None:
    """Return the base model that an adapter (a folder or hub id) names.

    Raises:
        ModelError: when its configuration is no JSON object, or names no string.
    """
    found = read_config(adapter).get("base_model_name_or_path") or None
    if found is not None and not isinstance(found, str):
        raise ModelError(
            f"{adapter}: {CONFIG_FILE} has base_model_name_or_path={found!r}; expected a folder or "
            "hub id; restore the file"
        )
    return found


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


def fit(model: Any, adapter: str) -> bool:
    """Resize a model's embeddings to those that an adapter brings, and refuse another base.

    Returns:
        Whether their number changed.

    Raises:
        ModelError: for an adapter of other sizes, of another base, or without the embeddings of
            the tokens that it adds.
    """
    config = read_config(adapter)
    path = find_file(adapter, WEIGHTS_FILE)
    with safe_open(path, framework="pt") as file:
        made_for = (file.metadata() or {}).get(FINGERPRINT)
        slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
        shapes = {key: tuple(each.get_shape()) for key, each in slices.items()}
        whole = [key for key, each in slices.items() if "F" not in each.get_dtype()]
    _require_types(adapter, config, whole)
    shapes = {key.removeprefix(PREFIX): shape for key, shape in shapes.items()}
    is_foreign = made_for is not None and not _has_meta(model) and made_for != fingerprint(model)
    is_resized = vocabulary.resize(model, shapes, config, adapter)
    why = next(_misfits(model, shapes), None)
    if why is None and is_foreign:
        why = "the sizes are the same, the weights are others"
    if why is not None:
        raise foreign(adapter, config, describe(model), why)
    return is_resized


def _require_types(adapter: str, config: Mapping[str, Any], whole: list[str]) -> None:
    """Refuse tensors of whole numbers, and values that PEFT takes as true whatever they are."""
    if whole:
        raise ModelError(f"{adapter}: {whole[0]} holds no floating-point numbers; fetch it again")
    for name in ("use_dora", "use_rslora", "fan_in_fan_out"):
        if not isinstance(config.get(name, False), bool):
            raise ModelError(
                f"{adapter}: {CONFIG_FILE} has {name}={config[name]!r}; expected true or false; "
                "restore the file"
            )


def foreign(adapter: str, config: dict[str, Any], model: str, why: str) -> ModelError:
    """Return the error that names the base an adapter was made for."""
    base = config.get("base_model_name_or_path") or "another model"
    return ModelError(
        f"{adapter}: this adapter was made for {base}, which {model} is not ({why}); load it with "
        "its own base"
    )


def _misfits(model: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    for key, shape in shapes.items():
        if key.endswith((LORA_A, LORA_B)):
            name = key.removesuffix(LORA_A).removesuffix(LORA_B)
            layer = _layer(model, name)
            if layer is None:
                yield f"it has no layer {name}"
            elif len(shape) != 2:
                yield f"the adapter's tensor for its {name} has the shape {list(shape)}"
            elif isinstance(layer, nn.Linear):
                side, has, wanted = (
                    ("inputs", layer.in_features, shape[1])
                    if key.endswith(LORA_A)
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


def describe(model: Any) -> str:
    """Return the class and the name of a model."""
    return f"the {type(model).__name__} {getattr(model, 'name_or_path', '')}".rstrip()


def read_config(adapter: str) -> dict[str, Any]:
    """Return the configuration of an adapter (a folder or hub id).

    Raises:
        ModelError: for a missing file, or one that is no JSON object.
    """
    return read_object(find_file(adapter, CONFIG_FILE))


def find_file(adapter: str, name: str) -> Path:
    """Return the path of an adapter's file, in its folder or fetched from the hub.

    Raises:
        ModelError: for a folder without it.
    """
    folder = Path(adapter)
    if folder.is_dir():
        if not (folder / name).is_file():
            raise ModelError(f"{adapter}: no {name} in this adapter folder")
        return folder / name
    from transformers.utils.hub import cached_file

    return Path(str(cached_file(adapter, name)))
