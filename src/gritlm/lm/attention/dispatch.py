"""The fastest view of a model for what is read: one token, few of them, or many.

On a CPU packed weights and grouped heads read few tokens faster (docs/log.md).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch

from gritlm.lm.attention import ragged, views
from gritlm.lm.attention.decode_views import compiled_view, decoding_view

FEW = 256  # most tokens of a text for which packed weights are faster


class FastViews:
    """Derived views, each made when it is first used, and anew when weights have changed.

    Args:
        causal: the model itself.
        bidirectional: its plain bidirectional view.
        compiled: whether steps of one token run as a compiled graph.
    """

    def __init__(self, causal: Any, bidirectional: Any, *, compiled: bool) -> None:
        self._causal = causal
        self._bidirectional = bidirectional
        self._compiled = compiled
        self._lock = threading.Lock()
        self._decoding: tuple[int, Any] | None = None  # of which weights, and the view
        self._made: dict[str, tuple[Any, Any]] = {}  # of which decoding view, and the view

    def version(self) -> int:
        """Grows whenever a parameter is changed in place."""
        return sum(parameter._version for parameter in self._causal.parameters())

    @property
    def decoding(self) -> Any:
        """The causal view for steps of one token: compiled, or with packed weights, or as it is."""
        with self._lock:
            version = self.version()
            if self._decoding is None or self._decoding[0] != version:
                make = compiled_view if self._compiled else decoding_view
                self._decoding = version, make(self._causal)
            return self._decoding[1]

    @property
    def stepping(self) -> Any:
        """The causal view for one token each of rows that stand in slots."""
        return self._derived("stepping", ragged.view)

    def causal(self, tokens: int) -> Any:
        """The causal view for so many tokens of each text; for inference only."""
        if self._few(tokens):
            return self._derived("causal", views.grouped)
        return self.decoding if tokens == 1 else self._causal

    def bidirectional(self, tokens: int) -> Any:
        """The bidirectional view for so many tokens of all texts together."""
        if not self._few(tokens) or torch.is_grad_enabled():
            return self._bidirectional
        return self._derived("bidirectional", self._reading)

    def _few(self, tokens: int) -> bool:
        return tokens <= FEW and not self._compiled and self._causal.device.type == "cpu"

    def _reading(self, decoding: Any) -> Any:
        packed = decoding is not self._causal
        return views.bidirectional(decoding.base_model) if packed else self._bidirectional

    def _derived(self, name: str, make: Callable[[Any], Any]) -> Any:
        decoding = self.decoding
        with self._lock:
            if name not in self._made or self._made[name][0] is not decoding:
                self._made[name] = decoding, make(decoding)
            return self._made[name][1]
