"""Decode steps whose rows have different adapters over one base: one pass for all rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from gritlm.lm.lean.decoder import LeanDecoder
from gritlm.lm.lean.low_rank import NO_ADAPTER, AdapterRows, with_low_rank
from gritlm.lm.lean.view import LeanForward, lean_forward_of
from gritlm.lm.unified import UnifiedLM

MOST = 8  # adapters whose terms are computed side by side


class AdapterMixtures:
    """Views for decode steps of several adapters, made for the adapters that run together.

    Their low-rank terms are copied side by side. Only one thread may use it.
    """

    def __init__(self) -> None:
        self._current: _Mixture | None = None

    def view(self, lms: Sequence[UnifiedLM]) -> Any | None:
        """Return the view of a step whose rows have the adapters of several models.

        Args:
            lms: model of each row.

        Returns:
            A view for the next step alone; None if the models have no lean pass over one base, or
            are too many.
        """
        wanted = list(dict.fromkeys(lms))
        if self._current is None or not self._current.has(wanted):
            kept = [] if self._current is None else self._current.lms
            together = list(dict.fromkeys([*kept, *wanted]))
            self._current = _mixture(together) or _mixture(wanted)
        return None if self._current is None else self._current.view(lms)


class _Mixture:
    """A lean pass with the terms of several adapters.

    Args:
        lms: models with plain LoRA, and their base perhaps.
        base: lean pass of the base.

    Attributes:
        lms: as the argument.
    """

    def __init__(self, lms: list[UnifiedLM], base: LeanForward) -> None:
        self.lms = lms
        self._decodings = [lm.decoding for lm in lms]
        adapted = [lm for lm in lms if lm.base is not None]
        self._number = {lm: number for number, lm in enumerate(adapted)}
        self._rows = AdapterRows()
        with torch.inference_mode():
            weights = with_low_rank(base.weights, [lm.causal for lm in adapted], self._rows)
        self._forward = LeanForward(LeanDecoder(weights), _refuse).forward

    def has(self, lms: Sequence[UnifiedLM]) -> bool:
        """Return whether the pass has all models, with their present weights."""
        pairs = zip(self.lms, self._decodings, strict=True)
        return set(lms) <= set(self.lms) and all(lm.decoding is known for lm, known in pairs)

    def view(self, lms: Sequence[UnifiedLM]) -> Any:
        """Return the view of a pass whose rows belong to these models."""
        self._rows.choose([self._number.get(lm, NO_ADAPTER) for lm in lms])
        return self._forward


def _mixture(lms: list[UnifiedLM]) -> _Mixture | None:
    bases = {lm if lm.base is None else lm.base for lm in lms}
    if len(bases) > 1 or len(lms) > MOST:
        return None
    base = lean_forward_of(bases.pop().decoding)
    return None if base is None else _Mixture(lms, base)


def _refuse(*_: Any, **__: Any) -> Any:
    raise AssertionError("a decode step is a call that the lean pass takes")
