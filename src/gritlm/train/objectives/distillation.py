"""Teacher of the distillation: vectors of a sentence-transformers model.

Shapes: N texts, D dimensions of the teacher.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gritlm.distribution import install_hint
from gritlm.errors import MissingExtraError, ModelError, one_line
from gritlm.lm.hub.quiet import quiet

_CACHE_SIZE = 200_000  # cached vectors; 300 MB for a small encoder


class Teacher:
    """Frozen sentence-transformers model with a cache of its vectors."""

    def __init__(self, name: str, *, device: torch.device) -> None:
        """Load the model.

        Args:
            name: folder or hub id of the model.
            device: device to run it on.

        Raises:
            MissingExtraError: sentence-transformers is not installed.
            ModelError: the model cannot be loaded.
        """
        self._model = _load(name, device)
        self._cache: dict[str, Tensor] = {}

    def vectors(self, texts: Sequence[str]) -> Tensor:
        """Return normalized vectors (N, D) without gradient, float32, on the CPU."""
        new = [text for text in dict.fromkeys(texts) if text not in self._cache]
        if new:
            if len(self._cache) + len(new) > _CACHE_SIZE:
                self._cache.clear()
                new = list(dict.fromkeys(texts))
            vectors = self._model.encode(
                new, convert_to_tensor=True, normalize_embeddings=True, show_progress_bar=False
            )
            self._cache |= zip(new, vectors.float().cpu(), strict=True)
        return torch.stack([self._cache[text] for text in texts])


def _load(name: str, device: torch.device) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise MissingExtraError(
            f"loss.teacher needs sentence-transformers: {install_hint('train')}"
        ) from None
    try:
        with quiet():
            return SentenceTransformer(name, device=str(device), trust_remote_code=False)
    except (OSError, ValueError, RuntimeError) as error:
        reason = one_line(error, limit=300)
        raise ModelError(f"loss.teacher = {name!r} cannot be loaded: {reason}") from error
