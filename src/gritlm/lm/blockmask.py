"""A prompt whose first parts are read apart: where its tokens stand, and whom they see.

Shapes: B rows, L positions.

Every part is read by itself and begins with a BOS. One that stands later keeps its own, because its
tokens were read with it: at the position before the part (rotary positions are relative), seen by
nobody else. What follows the parts is read causally over all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Block:
    """Tokens ``start`` to ``end`` (not included) of a prompt, read by themselves.

    Attributes:
        causal: each token sees those before it, else its whole block.
    """

    start: int
    end: int
    causal: bool


@dataclass(frozen=True)
class Layout:
    """All tokens of a prompt.

    Attributes:
        positions: of each token.
        blocks: from left to right.
        unseen: tokens (the BOS of later blocks) that are seen in their own block only.
    """

    ids: tuple[int, ...]
    positions: tuple[int, ...]
    blocks: tuple[Block, ...]
    unseen: tuple[int, ...]


def lay_out(
    parts: Sequence[Sequence[int]], tail: Sequence[int], *, bos: int, causal: bool
) -> Layout:
    """Parts one behind the other, then the tail.

    Args:
        parts: each with its BOS.
        bos: how many ids of a part that is.
    """
    ids: list[int] = []
    positions: list[int] = []
    unseen: list[int] = []
    blocks = []
    for part in parts:
        start, cut = len(ids), bos if ids else 0
        first = start - len(unseen) - cut
        unseen += range(start, start + cut)
        positions += range(first, first + len(part))
        blocks.append(Block(start, start + len(part), causal))
        ids += part
    first = len(ids) - len(unseen)
    return Layout(
        (*ids, *tail), (*positions, *range(first, first + len(tail))), tuple(blocks), tuple(unseen)
    )


def seen(size: int, blocks: Sequence[Block], unseen: Sequence[int]) -> Tensor:
    """Whom (second axis) each token sees -> (L, L) of bool."""
    seen_LL = torch.ones(size, size, dtype=torch.bool).tril()
    seen_LL[:, list(unseen)] = False
    for block in blocks:
        own = slice(block.start, block.end)
        inside = torch.ones(block.end - block.start, block.end - block.start, dtype=torch.bool)
        seen_LL[own] = False
        seen_LL[own, own] = inside.tril() if block.causal else inside
    return seen_LL


def as_mask(seen_BLL: Tensor, decoder: Any) -> Tensor:
    """Whom (last axis) each token sees, as the decoder's attention wants it -> (B, 1, L, L)."""
    seen = seen_BLL[:, None]
    if decoder.config._attn_implementation != "eager":
        return seen
    # The plain implementation adds its mask to the scores.
    lowest = torch.finfo(decoder.dtype).min
    return torch.zeros_like(seen, dtype=decoder.dtype).masked_fill(~seen, lowest)
