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
_COMPILED_TOKENS = 11  # the same for a compiled step
_TEXT_TOKENS = 2  # tokens that cost as much as the attention of a text apart from the others


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


def worthwhile_drafts(
    drafts: Sequence[Sequence[int]], expected: Sequence[float], *, compiled: bool = False
) -> list[list[int]] | None:
    """Return the drafts that one pass over all texts should verify, empty for the other texts.

    Without drafts a step adds a token to each text, which costs less than a pass over texts side by
    side. A draft is kept if its right tokens are expected to come sooner than by such steps.

    Args:
        drafts: draft of each text; empty for none.
        expected: expected number of right tokens in each draft.
        compiled: whether the step without drafts is compiled, and costs less.

    Returns:
        A draft for each text; None where a step without drafts is faster.
    """
    texts = len(drafts)
    step = (_COMPILED_TOKENS if compiled else PASS_TOKENS) + texts
    tokens_per_cost = texts / step
    gains = [
        right - tokens_per_cost * len(draft) for draft, right in zip(drafts, expected, strict=True)
    ]
    without = tokens_per_cost * (PASS_TOKENS + (1 + _TEXT_TOKENS) * texts) - texts
    if sum(gain for gain in gains if gain > 0) <= without:
        return None
    return [list(draft) if gain > 0 else [] for draft, gain in zip(drafts, gains, strict=True)]


def worthwhile_padded_drafts(
    drafts: Sequence[Sequence[int]], expected: Sequence[float], *, rows: int
) -> list[list[int]]:
    """Return the drafts that a padded pass over rows of a batch should verify, all empty for none.

    Every row of the pass costs as much as the one with the longest draft, so drafts are cut.

    Args:
        drafts: draft of each text; empty for none.
        expected: expected number of right tokens in each draft.
        rows: number of rows of the batch, with those whose text has ended.
    """
    sizes = sorted({len(draft) for draft in drafts})

    def rate(size: int) -> float:
        """Return the expected tokens per cost with drafts of this size."""
        parts = [
            right * min(1.0, size / max(1, len(draft)))
            for draft, right in zip(drafts, expected, strict=True)
        ]
        return (len(drafts) + sum(parts)) / (PASS_TOKENS + rows * (1 + size))

    best = max([0, *sizes], key=rate)
    return [list(draft[:best]) for draft in drafts]
