"""Loading of checkpoint weights, with checks of the files and of every tensor."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from gritlm.errors import ModelError, one_line
from gritlm.lm.hub.model_config import read_object
from gritlm.lm.hub.quiet import quiet

_INDEX = "model.safetensors.index.json"
_LAYER = re.compile(r"\blayers\.(\d+)\.")
_SHOWN = 3

Shapes = dict[str, tuple[int, ...]]


def load_weights(kind: Any, source: str, config: Any, **options: Any) -> Any:
    """Load a model and check that its tensors and those of the checkpoint match.

    Args:
        kind: class of transformers that loads the model.
        source: folder or hub id.
        config: configuration of the checkpoint.
        options: arguments of ``from_pretrained``.

    Raises:
        ModelError: for files that are damaged, lack tensors, or do not fit the configuration.
    """
    folder = Path(source) / options.get("subfolder", "")
    shapes = read_shapes(folder) if folder.is_dir() else {}
    _require_layers(source, config, shapes)
    try:
        with quiet():
            model, found = kind.from_pretrained(
                source,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                **options,
            )
    except RuntimeError as error:
        raise _mismatch(kind, source, config, shapes) or error from error
    _require_all(source, model, found)
    return model


def read_shapes(folder: Path) -> Shapes:
    """Return the shape of each tensor in the safetensors files of a folder, from their headers.

    Args:
        folder: the checkpoint folder.

    Raises:
        ModelError: for an index with a file that is missing or outside of the folder.
        SafetensorError: for a damaged file.
    """
    files = _indexed_files(folder) or sorted(folder.glob("model*.safetensors"))
    shapes: Shapes = {}
    for path in files:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                shapes[name] = tuple(file.get_slice(name).get_shape())
    return shapes


def _indexed_files(folder: Path) -> list[Path]:
    index = folder / _INDEX
    if not index.is_file() or (folder / "model.safetensors").is_file():
        return []
    names = read_object(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise ModelError(f"{index}: weight_map is no object of file names; download it again")
    files = sorted({str(name) for name in names.values()})
    for name in files:
        if Path(name).name != name:
            raise ModelError(
                f"{index}: names the file {one_line(name, limit=80)!r}, which is not in the "
                "folder; expected plain file names"
            )
        if not (folder / name).is_file():
            raise ModelError(
                f"{index}: names {one_line(name)}, which is missing; download it again"
            )
    return [folder / name for name in files]


def _require_layers(source: str, config: Any, shapes: Shapes) -> None:
    """Refuse a config with more layers than the files have tensors, which would never load."""
    layers = getattr(config, "num_hidden_layers", None)
    if shapes and isinstance(layers, int) and layers > len(shapes):
        raise ModelError(
            f"{source}: config.json has num_hidden_layers={layers}, the weights have "
            f"{len(shapes)} tensors; restore config.json"
        )


def _require_all(source: str, model: Any, found: Mapping[str, Iterable[Any]]) -> None:
    if missing := sorted(found["missing_keys"]):
        raise ModelError(
            f"{source}: {len(missing)} tensors are not in the checkpoint ({_some(missing)}); it is "
            "incomplete, or was saved without its LM head (then use mode='embedding')"
        )
    if unread := sorted(key for key in found["unexpected_keys"] if _belongs(key, model)):
        raise ModelError(
            f"{source}: {len(unread)} tensors of the checkpoint have no place in the model that "
            f"config.json describes ({_some(unread)}); restore config.json"
        )


def _belongs(key: str, model: Any) -> bool:
    """Return whether an unused tensor belongs to a layer or a parameter that the model lacks.

    Other unused tensors are ignored: heads for other tasks, states of optimizers and quantizers.
    """
    layer = _LAYER.search(key)
    if layer and int(layer[1]) >= _deepest(model.config):
        return True
    name, _, parameter = key.rpartition(".")
    try:
        owner = model.get_submodule(name)
    except AttributeError:
        return False
    return parameter in ("weight", "bias") and any(True for _ in owner.parameters(recurse=False))


def _deepest(config: Any) -> int:
    """Return the most layers of a part of a model, such as its text decoder or a tower."""
    parts = [config, *(getattr(config, name, None) for name in config.sub_configs)]
    return max(
        (count for each in parts if (count := getattr(each, "num_hidden_layers", None))), default=0
    )


def _mismatch(kind: Any, source: str, config: Any, shapes: Shapes) -> ModelError | None:
    """Return the error for the first tensor whose shape does not fit the config, if any."""
    try:
        with torch.device("meta"):
            expected = kind.from_config(config).state_dict()
    except Exception:  # an invalid config; the original error explains it
        return None
    for name, value in expected.items():
        if shapes.get(name, tuple(value.shape)) != tuple(value.shape):
            return ModelError(
                f"{source}: {name} has the shape {list(shapes[name])}, by config.json it is "
                f"{list(value.shape)}; restore config.json or the weights"
            )
    return None


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
