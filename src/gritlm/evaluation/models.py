"""The models to measure: what they are is known before they are loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from gritlm.errors import DownloadError, InputError, ModelError
from gritlm.evaluation import fingerprints, tensors
from gritlm.evaluation.results import Half

Kind = Literal["GritLM", "sentence-transformers"]

ENCODER_FILE = "modules.json"  # what sentence-transformers calls its folders by
_COUNTED = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")
_INSIDE = ("*_*/*.json", "*_*/*.safetensors")  # the folders of sentence-transformers' modules
_ASIDE = ("trainer_state.json", "source.json")  # how it was made, not what it says
_TWICE = "consolidated*"  # the same weights once more, in the format of Mistral's own library
_HEADS = ("lm_head.", "embed_out.")  # what transformers calls LM heads


@dataclass(frozen=True)
class EvaluatedModel:
    """A model to measure.

    Attributes:
        name: what the report calls it.
        source: folder of its checkpoint, or of its base.
        adapter: folder of an adapter over it.
        digest: of its weights, settings and tokenizer.
        has_head: whether the files hold an LM head of its own; without one it is either tied to
            the embeddings or was not saved.
        about: settings that can be read without loading it.
    """

    name: str
    kind: Kind
    source: Path
    adapter: Path | None
    digest: str
    has_head: bool = True
    about: dict[str, Any] = field(default_factory=dict)

    def cannot(self, half: Half) -> str | None:
        """Why one half is not measured; None when it is, as far as the files tell."""
        if self.kind == "sentence-transformers" and half != "embedding":
            return "it only embeds (a sentence-transformers model)"
        return None


def find_model(name: str) -> EvaluatedModel:
    """A model by its name: ``default``, ``base``, a folder or a hub id, or ``LABEL=`` one of these.

    Raises:
        ModelError: when it is no model.
        DownloadError: when it is not here and cannot be fetched.
    """
    label, what = _split(name)
    source, adapter = _resolve(what)
    kind: Kind = "sentence-transformers" if _is_encoder(source) else "GritLM"
    folders = [("model", source), *([] if adapter is None else [("adapter", adapter)])]
    patterns = _COUNTED + (_INSIDE if kind == "sentence-transformers" else ())
    files = [pair for where, folder in folders for pair in _files(where, folder, patterns)]
    weights = [path for _, path in files if path.suffix == ".safetensors"]
    # of sentence-transformers they may lie in the folder of a module
    inside = [path for path in weights if kind != "GritLM" or path.parent == source]
    if not any(path.is_relative_to(source) for path in inside):
        raise ModelError(f"{source}: no *.safetensors file in this folder; expected a checkpoint")
    sizes = tensors.sizes(weights)
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
    )


def _is_encoder(folder: Path) -> bool:
    """Whether a folder is a sentence-transformers model; ours say so only to other libraries."""
    from gritlm.lm.hub.model_config import FILE

    return (folder / ENCODER_FILE).is_file() and not (folder / FILE).is_file()


def find_models(names: Sequence[str]) -> list[EvaluatedModel]:
    """Several models, each under a name of its own.

    Raises:
        InputError: when one is given twice.
        ModelError, DownloadError: see :func:`find`.
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


def _split(name: str) -> tuple[str, str]:
    """What a model is called, and where it is: ``LABEL=PATH``, or a path by its last part."""
    label, equals, what = name.partition("=")
    if equals and label and what and not Path(name).exists():
        return label, what
    folder = Path(name)
    if not folder.is_dir():
        return name, name
    parts = folder.resolve().parts
    plain = parts[-1] in ("model", "final", "adapter", "best") or parts[-1].startswith("checkpoint")
    return "/".join(parts[-2:] if plain else parts[-1:]), name


def _resolve(what: str) -> tuple[Path, Path | None]:
    """Folders of a checkpoint and of an adapter over it, fetched where they are not here."""
    from gritlm.lm.hub import checkpoint

    place = Path(what).expanduser()
    if _is_encoder(place):
        return place, None
    what = str(place) if place.is_dir() else what
    _require_base(what)
    source, adapter = checkpoint.resolve(what, None)
    if adapter is None and not Path(source).is_dir():  # a hub id can be an adapter, too
        fetched = str(_fetched(source))
        _require_base(fetched)
        source, adapter = checkpoint.resolve(fetched, None)
    return _fetched(source), None if adapter is None else _fetched(adapter)


def _require_base(what: str) -> None:
    """
    Raises:
        ModelError: for the folder of an adapter that does not say what it belongs to.
    """
    from gritlm.lm.hub import lora

    if lora.is_adapter_folder(what) and lora.base_named(what) is None:
        raise ModelError(
            f"{what}: the adapter names no base model; write its folder or hub id into "
            f"{lora.CONFIG_FILE} as base_model_name_or_path"
        )


def _fetched(name: str) -> Path:
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
            f"({' '.join(str(why).split())[:200]}); check the path, or the name and the network"
        ) from None


def _files(where: str, folder: Path, patterns: Sequence[str]) -> list[tuple[str, Path]]:
    """The files of a folder that decide what the model says."""
    paths = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    return [
        (f"{where}/{path.relative_to(folder).as_posix()}", path)
        for path in paths
        if path.is_file() and path.name not in _ASIDE and not path.match(_TWICE)
    ]


def _settings(kind: Kind, folders: Sequence[tuple[str, Path]]) -> dict[str, Any]:
    """What our own folders say: how a model embeds and chats."""
    from gritlm.lm.hub.model_config import FILE, read_settings

    if kind == "sentence-transformers":
        return {}
    own = [folder for _, folder in reversed(folders) if (folder / FILE).is_file()]
    said = read_settings(own[0] if own else folders[0][1])
    return {
        "pooling": said.pooling_method,
        "attention": said.attn,
        "template": said.template,
        "trained_to_embed": said.trained_to_embed,
    }
