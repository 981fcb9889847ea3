"""Positions and attention mask of a prompt that begins with independent blocks.

Shapes: B rows, L positions.

Each block is computed without the others and begins with a BOS. Later blocks keep their BOS, since
their tokens were computed with it: it has the position before the block (rotary positions are
relative), and only its own block attends to it. The tail attends causally to all blocks.

The first tokens of later blocks may be recomputed with causal attention to all tokens before them.
Such tokens are repeated after the blocks, at their old positions; all tokens except those of their
own block attend to the recomputed ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

_SLIDING = "sliding_attention"


@dataclass(frozen=True)
class BlockSpan:
    """A block of a prompt, whose tokens attend only to their own block.

    Attributes:
        start: index of the first token.
        end: index after the last token.
        causal: whether a token attends to earlier tokens only, else to its whole block.
    """

    start: int
    end: int
    causal: bool


@dataclass(frozen=True)
class BlockLayout:
    """A prompt made of blocks and a tail.

    Attributes:
        ids: token ids: blocks, recomputed tokens, tail.
        positions: position of each token.
        blocks: the blocks, from left to right.
        unseen: indices of tokens (the BOS of later blocks) that only their own block attends to.
        again: indices of the tokens that are repeated after the last block, in this order. Only
            their own block attends to the original ones.
    """

    ids: tuple[int, ...]
    positions: tuple[int, ...]
    blocks: tuple[BlockSpan, ...]
    unseen: tuple[int, ...]
    again: tuple[int, ...] = ()


class LaidOutBlock(Protocol):
    """Interface of a layout, with the attributes of :class:`BlockLayout`."""

    @property
    def ids(self) -> Sequence[int]: ...
    @property
    def positions(self) -> Sequence[int]: ...
    @property
    def blocks(self) -> Sequence[BlockSpan]: ...
    @property
    def unseen(self) -> Sequence[int]: ...
    @property
    def again(self) -> Sequence[int]: ...


def lay_out(
    parts: Sequence[Sequence[int]], tail: Sequence[int], *, bos: int, causal: bool, again: int = 0
) -> BlockLayout:
    """Return the layout of a prompt of blocks, followed by a tail.

    Args:
        parts: token ids of each block, with its BOS.
        tail: token ids after the blocks.
        bos: number of ids of a BOS: 0 or 1.
        causal: whether the tokens of a block attend to earlier tokens only.
        again: number of first tokens of each block, except the first block, that are recomputed.
    """
    ids: list[int] = []
    positions: list[int] = []
    unseen: list[int] = []
    twice: list[int] = []
    blocks: list[BlockSpan] = []
    for part in parts:
        start = len(ids)
        cut = bos if ids else 0
        first = start - len(unseen) - cut
        unseen += range(start, start + cut)
        if blocks:
            twice += range(start + cut, min(start + cut + again, start + len(part)))
        positions += range(first, first + len(part))
        blocks.append(BlockSpan(start, start + len(part), causal))
        ids += part
    first = len(ids) - len(unseen)
    copies = tuple(ids[at] for at in twice)
    places = (*positions, *(positions[at] for at in twice), *range(first, first + len(tail)))
    return BlockLayout((*ids, *copies, *tail), places, tuple(blocks), tuple(unseen), tuple(twice))


def seen(laid: LaidOutBlock) -> Tensor:
    """Return a mask (L, L) that is True where a token (row) attends to another (column)."""
    size = len(laid.ids)
    seen_LL = torch.ones(size, size, dtype=torch.bool).tril()
    seen_LL[:, [*laid.unseen, *laid.again]] = False
    for block in laid.blocks:
        own = slice(block.start, block.end)
        inside = torch.ones(block.end - block.start, block.end - block.start, dtype=torch.bool)
        seen_LL[own] = False
        seen_LL[own, own] = inside.tril() if block.causal else inside
    if laid.again:
        position_L = torch.tensor(laid.positions)
        copies = slice(laid.blocks[-1].end, laid.blocks[-1].end + len(laid.again))
        seen_LL[copies] &= position_L <= position_L[copies, None]
    return seen_LL


def as_mask(seen_BLL: Tensor, decoder: Any) -> Tensor:
    """Return a mask (B, 1, L, L) in the format of the decoder's attention.

    Args:
        seen_BLL: True where a token attends to another (last axis).
        decoder: the decoder.
    """
    seen = seen_BLL[:, None]
    if decoder.config._attn_implementation != "eager":
        return seen
    # The eager implementation adds its mask to the scores.
    lowest = torch.finfo(decoder.dtype).min
    return torch.zeros_like(seen, dtype=decoder.dtype).masked_fill(~seen, lowest)


def windowed(
    seen_BLL: Tensor, near: Callable[[int], Tensor], decoder: Any
) -> Tensor | dict[str, Tensor]:
    """Return the mask of :func:`as_mask`, or a mask per kind of layer for sliding windows.

    Args:
        seen_BLL: True where a token attends to another (last axis).
        near: function that returns such a mask limited to a window of the given size in tokens.
        decoder: the decoder.
    """
    full = as_mask(seen_BLL, decoder)
    window = getattr(decoder.config, "sliding_window", None)
    kinds = getattr(decoder.config, "layer_types", None)
    if window is None or (kinds and _SLIDING not in kinds):
        return full
    cut = as_mask(near(window), decoder)
    # Mistral has a single kind of layer, without a name.
    return {"full_attention": full, _SLIDING: cut} if kinds else cut
