"""Projectors between the steps of the recipe: a new one, and its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gritlm.lm.media.towers.projector import Projector, ProjectorConfig

_WIDTH = 256
_LAYERS = 2


def new(words: list[int], table_VD: Tensor, **sizes: Any) -> Projector:
    """Return an untrained projector without summary tokens.

    Args:
        words: token ids of the words that it predicts.
        table_VD: embeddings of the decoder.
        **sizes: features, stack, positions and queries of its configuration.
    """
    config = ProjectorConfig(
        **sizes,
        summary=0,
        width=_WIDTH,
        layers=_LAYERS,
        words=len(words),
        hidden=table_VD.shape[1],
    )
    projector = Projector(config)
    projector.words_V = torch.tensor(words, dtype=torch.int32)
    projector.use_embeddings(table_VD)
    return projector


def save(projector: Projector, path: Path) -> None:
    """Write a projector in float32."""
    torch.save({"config": projector.config.as_dict(), "state": projector.state_dict()}, path)


def load(path: Path, table_VD: Tensor | None = None, *, summary: int | None = None) -> Projector:
    """Return the projector of a file.

    Args:
        path: a file of :func:`save`.
        table_VD: embeddings of the decoder; None for a projector that computes nothing.
        summary: number of summary tokens, untrained if the file has none; None for that of the
            file.
    """
    saved = torch.load(path, weights_only=True)
    config = saved["config"] if summary is None else saved["config"] | {"summary": summary}
    projector = Projector(ProjectorConfig(**config))
    projector.load_state_dict(saved["state"], strict=summary is None)
    if table_VD is not None:
        projector.use_embeddings(table_VD)
    return projector
