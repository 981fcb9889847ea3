"""Several texts in one pass of the model, each after its own cache, without padding.

A pass costs about as much as 24 tokens more on a CPU (docs/log.md), so texts of few tokens are
prefilled up to twice as fast together.

Shapes: S positions with logits, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from gritlm.lm.lean.view import lean_forward_of
from gritlm.lm.unified import UnifiedLM

PASS_TOKENS = 24  # tokens that cost as much as a pass itself


def reads_side_by_side(lm: UnifiedLM) -> bool:
    """Return whether a model reads several texts in one pass: where it has the lean pass."""
    return not lm.compiled and lean_forward_of(lm.decoding) is not None


@torch.inference_mode()
def read_side_by_side(
    lm: UnifiedLM,
    caches: Sequence[Cache],
    ids: Sequence[Sequence[int]],
    keep: Sequence[int],
) -> list[Tensor]:
    """Compute token ids of several texts after their cached tokens.

    Args:
        lm: a model for which :func:`reads_side_by_side` is true.
        caches: cache of each text, extended in place.
        ids: token ids of each text.
        keep: number of last positions of each text with logits.

    Returns:
        The logits (S, V) of the last positions of each text.
    """
    lean = lean_forward_of(lm.decoding)
    assert lean is not None, "the model has the lean pass"
    return list(lean.side_by_side(ids, caches, keep))
