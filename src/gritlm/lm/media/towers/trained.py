"""Files of trained projectors, and the senses of a model that they make with the published towers.

A folder has ``image.safetensors``, ``sound.safetensors`` or both. Each has the tensors of a
projector in float16, and its sizes as JSON in the metadata.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gritlm.errors import ModelError
from gritlm.lm.hub.weight_sources import Report
from gritlm.lm.media.senses import KINDS, Kind
from gritlm.lm.media.towers import published
from gritlm.lm.media.towers.projector import Projector, ProjectorConfig
from gritlm.lm.media.towers.small_senses import SmallSenses

# Projectors of the default model. They change only together with its adapter.
OF_DEFAULT_MODEL = Path(__file__).parent / "projectors"
SUBFOLDER = "senses"  # of a saved model
_CONFIG = "config"


def save_projector(projector: Projector, kind: Kind, folder: Path) -> None:
    """Write a projector to the file of its kind.

    Args:
        projector: the projector.
        kind: ``image`` or ``sound``.
        folder: the target, which exists.
    """
    tensors = {
        name: (value.half() if value.is_floating_point() else value).cpu().contiguous()
        for name, value in projector.state_dict().items()
    }
    about = {_CONFIG: json.dumps(projector.config.as_dict())}
    save_file(tensors, folder / f"{kind}.safetensors", metadata=about)


def has_projectors(folder: Path) -> bool:
    """Return whether a folder has a file of a projector."""
    return any((folder / f"{kind}.safetensors").is_file() for kind in KINDS)


def load_senses(folder: Path, model: Any, *, placeholder: int, report: Report) -> SmallSenses:
    """Return the senses of a folder of projectors; the towers are downloaded if they are missing.

    Args:
        folder: files of one or two projectors.
        model: the text decoder that they were trained for.
        placeholder: token id in whose place features are.
        report: function that gets a message on every step of a download.

    Raises:
        ModelError: for a damaged file, or one that was trained for another decoder.
        DownloadError: for towers that cannot be downloaded.
    """
    embeddings = model.get_input_embeddings().weight
    found: dict[Kind, Projector] = {}
    digest = hashlib.sha256(published.FOLDER.encode())
    for kind in KINDS:
        path = folder / f"{kind}.safetensors"
        if path.is_file():
            found[kind] = load_projector(path, embeddings)
            digest.update(path.read_bytes())
    image, sound = published.towers(published.pull(report=report))
    senses = SmallSenses(
        (image, found["image"]) if "image" in found else None,
        (sound, found["sound"]) if "sound" in found else None,
        placeholder=placeholder,
        maker=digest.hexdigest(),
    )
    senses.module.to(embeddings.device)
    return senses


def load_projector(path: Path, embeddings: Tensor) -> Projector:
    """Return the projector of a file.

    Args:
        path: the file.
        embeddings: embeddings of the vocabulary (V, D) of the decoder.

    Raises:
        ModelError: for a damaged file, or one that was trained for another decoder.
    """
    try:
        with safe_open(path, framework="pt") as file:
            config = ProjectorConfig(**json.loads(file.metadata()[_CONFIG]))
            tensors = {name: _float(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
        projector = Projector(config)
        projector.load_state_dict(tensors)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{path} is not the file of a projector: {error}") from None
    size, width = embeddings.shape
    most = int(projector.words_V.max())
    if width != config.hidden or most >= size:
        raise ModelError(
            f"{path} is for a decoder of hidden size {config.hidden} with token ids up to {most}; "
            f"this one has {width} and {size} embeddings; use the model that it was trained for"
        )
    projector.use_embeddings(embeddings)
    return projector.eval().requires_grad_(False)


def _float(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor.to(torch.int32)
