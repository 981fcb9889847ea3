"""Files of a PEFT adapter: configuration, tensors and fingerprint of the base."""

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
    """Return the name of the base model in the configuration of an adapter, if any.

    Args:
        adapter: folder or hub id.

    Raises:
        ModelError: for a configuration that is not a JSON object, or a name that is not a string.
    """
    found = read_config(adapter).get("base_model_name_or_path") or None
    if found is not None and not isinstance(found, str):
        raise ModelError(
            f"{adapter}: {CONFIG_FILE} has base_model_name_or_path={found!r}; expected a folder or "
            "hub id; restore the file"
        )
    return found


def fingerprint(model: nn.Module) -> str:
    """Return a hash of the one-dimensional parameters (norms, biases) of a model.

    It distinguishes base models of the same size. Quantisation and dtypes do not change these
    parameters, so the 4-bit and the original weights of a model have the same fingerprint.
    Fine-tuned weights may have it too.

    Args:
        model: the model.
    """
    found = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        if parameter.ndim == 1:
            found.update(name.encode())
            value = parameter.detach().to(device="cpu", dtype=torch.bfloat16)
            found.update(value.contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def fit(model: Any, adapter: str) -> bool:
    """Resize the embeddings of a base model for an adapter, and refuse another base.

    Args:
        model: the base model.
        adapter: folder or hub id.

    Returns:
        Whether the number of embeddings changed.

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
    """Refuse integer tensors, and flags of other types, which PEFT would take as true."""
    if whole:
        raise ModelError(f"{adapter}: {whole[0]} holds no floating-point numbers; fetch it again")
    for name in ("use_dora", "use_rslora", "fan_in_fan_out"):
        if not isinstance(config.get(name, False), bool):
            raise ModelError(
                f"{adapter}: {CONFIG_FILE} has {name}={config[name]!r}; expected true or false; "
                "restore the file"
            )


def foreign(adapter: str, config: dict[str, Any], model: str, why: str) -> ModelError:
    """Return the error for an adapter of another base model.

    Args:
        adapter: folder or hub id of the adapter.
        config: its configuration, with the name of its base.
        model: description of the model it was loaded with.
        why: the difference.
    """
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
    """Return class and name of a model, for messages."""
    return f"the {type(model).__name__} {getattr(model, 'name_or_path', '')}".rstrip()


def read_config(adapter: str) -> dict[str, Any]:
    """Return the configuration of an adapter (a folder or hub id).

    Raises:
        ModelError: for a missing file, or one that is not a JSON object.
    """
    return read_object(find_file(adapter, CONFIG_FILE))


def find_file(adapter: str, name: str) -> Path:
    """Return the path of a file of an adapter, downloaded from the hub if necessary.

    Args:
        adapter: folder or hub id.
        name: name of the file.

    Raises:
        ModelError: for a folder without the file.
    """
    folder = Path(adapter)
    if folder.is_dir():
        if not (folder / name).is_file():
            whole = not is_adapter_folder(adapter) and (folder / "config.json").is_file()
            mend = "; it holds a whole model, so load it as the model itself" if whole else ""
            raise ModelError(f"{adapter}: no {name} in this adapter folder{mend}")
        return folder / name
    from transformers.utils.hub import cached_file

    return Path(str(cached_file(adapter, name)))
