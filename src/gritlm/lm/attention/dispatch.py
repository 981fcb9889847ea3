"""Selection of the fastest view of a model by the number of tokens.

On a CPU, packed weights and grouped heads are faster for few tokens (docs/log.md).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch

from gritlm.lm.attention import ragged, views
from gritlm.lm.attention.decode_views import compiled_view, decoding_view

FEW = 256  # maximum tokens of a text for which packed weights are faster


class FastViews:
    """Derived views of a model, created on first use and again after a change of the weights.

    Args:
        causal: the model itself.
        bidirectional: its bidirectional view with plain weights.
        compiled: whether steps of one token run as a compiled graph.
    """

    def __init__(self, causal: Any, bidirectional: Any, *, compiled: bool) -> None:
        self._causal = causal
        self._bidirectional = bidirectional
        self._compiled = compiled
        self._lock = threading.Lock()
        self._decoding: tuple[int, Any] | None = None  # version of the weights, view
        self._derived_views: dict[str, tuple[Any, Any]] = {}  # by name: decoding view, view

    def version(self) -> int:
        """Return a number that grows whenever a parameter is changed in place."""
        return sum(parameter._version for parameter in self._causal.parameters())

    @property
    def decoding(self) -> Any:
        """Causal view for one-token steps: compiled, with packed weights, or the model itself."""
        with self._lock:
            version = self.version()
            if self._decoding is None or self._decoding[0] != version:
                make = compiled_view if self._compiled else decoding_view
                self._decoding = version, make(self._causal)
            return self._decoding[1]

    @property
    def stepping(self) -> Any:
        """Causal view for batched decoding steps of sequences in KV slots."""
        return self._derived("stepping", ragged.view)

    def causal(self, tokens: int) -> Any:
        """Return the fastest causal view for a number of tokens per text; for inference only."""
        if self._few(tokens):
            return self._derived("causal", views.grouped)
        return self.decoding if tokens == 1 else self._causal

    def bidirectional(self, tokens: int) -> Any:
        """Return the fastest bidirectional view for a total number of tokens."""
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
            known = self._derived_views
            if name not in known or known[name][0] is not decoding:
                known[name] = decoding, make(decoding)
            return known[name][1]
