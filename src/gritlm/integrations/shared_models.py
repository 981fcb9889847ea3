"""Models of adapters: an object in memory, or a name that is loaded once for all adapters."""

from __future__ import annotations

import threading
from functools import cache
from pathlib import Path

from gritlm.lm.gritlm import GritLM

ModelLike = GritLM | str | Path | None

_lock = threading.Lock()


def model_of(model: ModelLike) -> GritLM:
    """Return the model of an adapter.

    Args:
        model: a model; or the name or folder of one, which is loaded once for all adapters of the
            process, so that embeddings and chats share its weights; None for the default model.
    """
    if isinstance(model, GritLM):
        return model
    with _lock:
        return _loaded("default" if model is None else str(model))


@cache
def _loaded(name: str) -> GritLM:
    return GritLM(name)
