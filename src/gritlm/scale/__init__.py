"""Work on many machines with Ray: bulk embedding and indexing, serving, training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gritlm import lazy

if TYPE_CHECKING:
    from gritlm.scale.training import Workers, train

__all__ = ["Workers", "train"]

_HOMES = {
    "Workers": "gritlm.scale.training",
    "train": "gritlm.scale.training",
}

__getattr__, __dir__ = lazy.names(__name__, _HOMES)
