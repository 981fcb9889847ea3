"""Files of trained projectors.

A folder has ``image.safetensors``, ``sound.safetensors`` or both. Each has the tensors of a
projector, and its sizes as JSON in the metadata.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gritlm.errors import ModelError
from gritlm.lm.media.senses import KINDS, Kind
from gritlm.lm.media.towers.projector import Projector, ProjectorConfig

SUBFOLDER = "senses"  # of a saved model
_CONFIG = "config"


def save_projector(projector: Projector, kind: Kind, folder: Path) -> None:
    """Write a projector to the file of its kind.

    Args:
        projector: the projector.
        kind: ``image`` or ``sound``.
        folder: the target, which exists.
    """
    tensors = {name: value.cpu().contiguous() for name, value in projector.state_dict().items()}
    about = {_CONFIG: json.dumps(projector.config.as_dict())}
    save_file(tensors, folder / f"{kind}.safetensors", metadata=about)


def has_projectors(folder: Path) -> bool:
    """Return whether a folder has a file of a projector."""
    return any((folder / f"{kind}.safetensors").is_file() for kind in KINDS)


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
