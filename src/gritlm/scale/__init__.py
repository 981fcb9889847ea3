"""Work on many machines with Ray: bulk embedding and indexing, serving, training."""

from __future__ import annotations

from gritlm import lazy

__all__: list[str] = []

_HOMES: dict[str, str] = {}

__getattr__, __dir__ = lazy.names(__name__, _HOMES)
