"""Models to evaluate: where their files are, and their settings, read without loading them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Literal

from gritlm.errors import DownloadError, InputError, ModelError, one_line
from gritlm.evaluation import fingerprints, inputs
from gritlm.evaluation.inputs import Inputs
from gritlm.evaluation.results import Kind

ModelKind = Literal["GritLM", "sentence-transformers"]

ENCODER_FILE = "modules.json"  # marks a folder of sentence-transformers
_COUNTED = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")
_INSIDE = ("*_*/*.json", "*_*/*.safetensors")  # the folders of sentence-transformers' modules
_IGNORED = ("trainer_state.json", "source.json")  # how a model was made changes no result
_TWICE = "consolidated*"  # a second copy of the weights, in the format of Mistral's own library
_HEADS = ("lm_head.", "embed_out.")  # names of LM heads in transformers


@dataclass(frozen=True)
class EvaluatedModel:
    """A model to evaluate.

    Attributes:
        name: name in the report.
        kind: library that runs the model.
        source: folder of the checkpoint, or of the base model of an adapter.
        adapter: folder of a LoRA adapter for the base model; None without one.
        digest: digest of weights, settings and tokenizer.
        has_head: whether the files hold a separate LM head; without one it is either tied to the
            embeddings or was not saved.
        about: settings that can be read without loading the model.
        reads: inputs that it reads: ``text``, ``image``, ``sound``.
        own_name: name of a model of this package whose files do not tell it from another one
            (``senses``); None to load it by its files.
    """

    name: str
    kind: ModelKind
    source: Path
    adapter: Path | None
    digest: str
    has_head: bool = True
    about: dict[str, Any] = field(default_factory=dict)
    reads: Inputs = inputs.TEXT
    own_name: str | None = None

    def cannot(self, kind: Kind, needs: Inputs = inputs.TEXT) -> str | None:
        """Return why a task cannot be measured; None if the files show no reason.

        Args:
            kind: kind of the task.
            needs: inputs of the task.
        """
        encoder = self.kind == "sentence-transformers"
        if encoder and kind not in ("embedding", "senses"):
            return "it only embeds (a sentence-transformers model)"
        if encoder and needs - self.reads:
            return "of a sentence-transformers model, only the vectors of texts are measured"
        return inputs.unread(needs, self.reads)


def find_model(name: str) -> EvaluatedModel:
    """Find a model by name, and download it if needed.

    Args:
        name: ``default``, ``base``, ``senses``, a folder or a hub id; ``LABEL=NAME`` sets the name
            in the report.

    Raises:
        ModelError: if the folder is missing, holds no checkpoint, or has damaged weights.
        DownloadError: if the model is not on this machine and cannot be downloaded.
    """
    label, location = _split_label(name)
    source, adapter = _resolve(location)
    kind: ModelKind = "sentence-transformers" if _is_encoder(source) else "GritLM"
    folders = [("model", source), *([] if adapter is None else [("adapter", adapter)])]
    projectors, own_name = _projectors(location, source)
    patterns = _COUNTED + (_INSIDE if kind == "sentence-transformers" else ())
    files = [pair for where, folder in folders for pair in _files(where, folder, patterns)]
    files += _files("senses", projectors, ("*.safetensors",))
    weights = [path for _, path in files if path.suffix == ".safetensors"]
    # A sentence-transformers model may have its weights in the folder of a module.
    inside = [path for path in weights if kind != "GritLM" or path.parent == source]
    if not any(path.is_relative_to(source) for path in inside):
        raise ModelError(f"{source}: no *.safetensors file in this folder; expected a checkpoint")
    sizes = tensor_sizes(weights)
    about = {
        "weights": sum(path.stat().st_size for path in weights),
        "parameters": sum(size for _, size in sizes),
        **_settings(kind, folders),
    }
    return EvaluatedModel(
        label,
        kind,
        source,
        adapter,
        fingerprints.of_files(files),
        any(name.startswith(_HEADS) for name, _ in sizes),
        about,
        inputs.of_model(source, projectors) if kind == "GritLM" else inputs.TEXT,
        own_name,
    )


def _is_encoder(folder: Path) -> bool:
    """Return whether a folder is a sentence-transformers model.

    Our own folders hold ``modules.json`` too, for other libraries.
    """
    from gritlm.lm.hub.model_config import FILE

    return (folder / ENCODER_FILE).is_file() and not (folder / FILE).is_file()


def find_models(names: Sequence[str]) -> list[EvaluatedModel]:
    """Find the models to evaluate, and download those that are not on this machine.

    Args:
        names: ``default`` (the default model), ``base`` (the model it was trained from), ``senses``
            (the default model that also reads images and sound), folders of checkpoints or
            adapters, or hub ids; ``LABEL=NAME`` sets the name in the report.

    Returns:
        The models in the order of the names. Nothing is loaded yet.

    Raises:
        InputError: if two models have the same name.
        ModelError: if a folder is missing, holds no checkpoint, or has damaged weights; or if an
            adapter names no base model.
        DownloadError: if a model is not on this machine and cannot be downloaded.
    """
    found = [find_model(name) for name in names]
    for position, one in enumerate(found):
        for other in found[:position]:
            if one.name == other.name:
                raise InputError(
                    f"two models are called {one.name!r}; give one another name: "
                    f"other-name={names[position]}"
                )
    return found


def _projectors(location: str, source: Path) -> tuple[Path, str | None]:
    """Return the folder of a model's projectors, and the name that alone loads them."""
    from gritlm.lm.hub import default_model
    from gritlm.lm.media.towers import projector_files, projector_loading

    if location == default_model.SENSES:
        return projector_loading.OF_DEFAULT_MODEL, location
    return source / projector_files.SUBFOLDER, None


def _split_label(name: str) -> tuple[str, str]:
    """Split ``LABEL=PATH``; without a label, the last part of the path names the model."""
    label, equals, location = name.partition("=")
    if equals and label and location and not Path(name).exists():
        return label, location
    folder = Path(name)
    if not folder.is_dir():
        return name, name
    parts = folder.resolve().parts
    plain = parts[-1] in ("model", "final", "adapter", "best") or parts[-1].startswith("checkpoint")
    return "/".join(parts[-2:] if plain else parts[-1:]), name


def _resolve(location: str) -> tuple[Path, Path | None]:
    """Return the folders of a checkpoint and of its adapter, downloaded if needed."""
    from gritlm.lm.hub import checkpoint

    folder = Path(location).expanduser()
    if _is_encoder(folder):
        return folder, None
    location = str(folder) if folder.is_dir() else location
    _require_base(location)
    source, adapter = checkpoint.resolve(location, None)
    if adapter is None and not Path(source).is_dir():  # a hub id can name an adapter, too
        fetched = str(_fetch(source))
        _require_base(fetched)
        source, adapter = checkpoint.resolve(fetched, None)
    return _fetch(source), None if adapter is None else _fetch(adapter)


def _require_base(location: str) -> None:
    """Check that an adapter names its base model.

    Raises:
        ModelError: if the folder is an adapter without the name of a base model.
    """
    from gritlm.lm.hub import lora

    if lora.is_adapter_folder(location) and lora.base_named(location) is None:
        raise ModelError(
            f"{location}: the adapter names no base model; write its folder or hub id into "
            f"{lora.CONFIG_FILE} as base_model_name_or_path"
        )


def _fetch(name: str) -> Path:
    """Return the folder of a model, downloaded if it is a hub id."""
    folder = Path(name)
    if folder.is_dir():
        return folder
    if folder.exists() or name.startswith(("/", "./", "../", "~")):
        raise ModelError(f"{name}: there is no such folder; expected a checkpoint folder")
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(name, allow_patterns=[*_COUNTED, *_INSIDE], ignore_patterns=[_TWICE])
        )
    except (OSError, ValueError) as why:
        raise DownloadError(
            f"{name!r} is neither a folder here nor a model that can be fetched "
            f"({one_line(why, limit=200)}); check the path, or the name and the network"
        ) from None


def _files(where: str, folder: Path, patterns: Sequence[str]) -> list[tuple[str, Path]]:
    """Return name and path of the files of a folder that change what the model computes."""
    paths = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    return [
        (f"{where}/{path.relative_to(folder).as_posix()}", path)
        for path in paths
        if path.is_file() and path.name not in _IGNORED and not path.match(_TWICE)
    ]


def _settings(kind: ModelKind, folders: Sequence[tuple[str, Path]]) -> dict[str, Any]:
    """Return the settings in our own folders: how a model embeds and chats."""
    from gritlm.lm.hub.model_config import FILE, read_settings

    if kind == "sentence-transformers":
        return {}
    own = [folder for _, folder in reversed(folders) if (folder / FILE).is_file()]
    settings = read_settings(own[0] if own else folders[0][1])
    return {
        "pooling": settings.pooling_method,
        "attention": settings.attn,
        "template": settings.template,
        "trained_to_embed": settings.trained_to_embed,
    }


def tensor_sizes(weights: Sequence[Path]) -> list[tuple[str, int]]:
    """Return name and number of elements of each tensor in some safetensors files.

    Raises:
        ModelError: if a file is damaged or cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    found = []
    for path in weights:
        try:
            with safe_open(path, framework="numpy") as file:
                names = file.keys()
                found += [(name, prod(file.get_slice(name).get_shape())) for name in names]
        except (OSError, SafetensorError) as error:
            raise ModelError(
                f"{path}: truncated or damaged ({error}); get the model again"
            ) from None
    return found
