"""A teacher whose similarities are distilled: any model of sentence-transformers.

Shapes: N texts, D dimensions of the teacher.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gritlm.distribution import install_hint
from gritlm.errors import MissingExtraError, ModelError
from gritlm.lm.hub.quiet import quiet

_KEPT = 200_000  # vectors; 300 MB for the small encoders that teach


class Teacher:
    """Vectors of length 1 without gradient; a text that comes again is not read again."""

    def __init__(self, name: str, *, device: torch.device) -> None:
        """
        Raises:
            MissingExtraError: without sentence-transformers.
            ModelError: when the model cannot be loaded.
        """
        self._model = _load(name, device)
        self._known: dict[str, Tensor] = {}

    def vectors(self, texts: Sequence[str]) -> Tensor:
        """(N, D), float32, on the CPU."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            if len(self._known) + len(new) > _KEPT:
                self._known.clear()
                new = list(dict.fromkeys(texts))
            found = self._model.encode(
                new, convert_to_tensor=True, normalize_embeddings=True, show_progress_bar=False
            )
            self._known |= zip(new, found.float().cpu(), strict=True)
        return torch.stack([self._known[text] for text in texts])


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
        said = " ".join(str(error).split())[:300]
        raise ModelError(f"loss.teacher = {name!r} cannot be loaded: {said}") from error
