"""Recomputation of some cached tokens over the whole prompt before them.

Shapes: T tokens of all blocks, Q recomputed and prefilled tokens, V vocabulary.

Blocks are computed without attention to each other. Recomputing some of their tokens, causally over
the whole prompt, repairs a part of that for a part of the cost: the first tokens of each block,
where attention sinks are (EPIC, arXiv 2410.15332), and the whole block of the best passage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from gritlm.errors import InputError
from gritlm.lm.attention.block_mask import windowed
from gritlm.lm.kv.cache import PatchedLayer
from gritlm.lm.unified import UnifiedLM
from gritlm.prompts import READ_AGAIN


@dataclass(frozen=True)
class Recompute:
    """Choice of the cached tokens that are recomputed when a prompt has several blocks.

    Attributes:
        tokens: number of first tokens of each block but the first.
        best: whether the block of the best passage is recomputed as a whole.

    Raises:
        InputError: for a value out of range.
    """

    tokens: int = READ_AGAIN
    best: bool = False

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise InputError(f"recompute.tokens is {self.tokens}; expected 1 or more")

    def positions(self, sizes: Sequence[int], best: int | None) -> list[int]:
        """Return the positions to recompute, in order.

        Args:
            sizes: number of tokens of each block.
            best: index of the block of the best passage; None without one.
        """
        positions: list[int] = []
        start = 0
        for number, size in enumerate(sizes):
            if number:
                whole = self.best and number == best
                positions += range(start, start + (size if whole else min(self.tokens, size)))
            start += size
        return positions


FIRST = Recompute()
BEST = Recompute(best=True)


@torch.inference_mode()
def read_again(
    lm: UnifiedLM,
    cache: Cache,
    positions: Sequence[int],
    *,
    ids: Sequence[int],
    tail: Sequence[int],
) -> Tensor:
    """Recompute positions and prefill the tail in one pass; return the last logits (V,).

    Each token attends to all earlier ones: to the recomputed ones in their new state, to the others
    in their cached state. The cache holds blocks and tail afterwards.
    """
    held = len(ids)
    end = len(ids) + len(tail)
    position_Q = torch.tensor([*positions, *range(held, end)], device=lm.device)
    input_Q = torch.tensor([*(ids[at] for at in positions), *tail], device=lm.device)
    layers: Any = cache.layers
    patched = Cache(layers=[PatchedLayer(layer, position_Q, end) for layer in layers])
    return lm.causal_for(len(position_Q))(
        input_Q[None],
        attention_mask=_causal_masks(lm, position_Q, end),
        position_ids=position_Q[None],
        past_key_values=patched,
        use_cache=True,
        logits_to_keep=1,
    ).logits[0, -1]


def _causal_masks(lm: UnifiedLM, position_Q: Tensor, end: int) -> Tensor | dict[str, Tensor]:
    """Return the attention masks of the tokens at these positions over the first ``end``."""
    ahead_QT = position_Q[:, None] - torch.arange(end, device=lm.device)[None]
    seen_QT = ahead_QT >= 0
    return windowed(seen_QT[None], lambda size: (seen_QT & (ahead_QT < size))[None], lm.decoder)
