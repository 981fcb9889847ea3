"""A prompt whose first parts are read apart: where its tokens stand, and whom they see.

Shapes: B rows, L positions.

Every part is read by itself and begins with a BOS. One that stands later keeps its own, because its
tokens were read with it: at the position before the part (rotary positions are relative), seen by
nobody else. What follows the parts is read causally over all of them.

The first tokens of a later part may be read again, causally over all before them: they then stand
behind the parts once more, at their old positions, and everybody but their own part sees these.
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
    """Tokens ``start`` to ``end`` (not included) of a prompt, read by themselves.

    Attributes:
        causal: each token sees those before it, else its whole block.
    """

    start: int
    end: int
    causal: bool


@dataclass(frozen=True)
class BlockLayout:
    """All tokens of a prompt.

    Attributes:
        positions: of each token.
        blocks: from left to right.
        unseen: tokens (the BOS of later blocks) that are seen in their own block only.
        again: tokens that stand once more behind the last block, in this order; the first time they
            are seen in their own block only.
    """

    ids: tuple[int, ...]
    positions: tuple[int, ...]
    blocks: tuple[BlockSpan, ...]
    unseen: tuple[int, ...]
    again: tuple[int, ...] = ()


class LaidOutBlock(Protocol):
    """What :func:`seen` has to know; the attributes of :class:`BlockLayout`."""

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
    """Parts one behind the other, then the tail.

    Args:
        parts: each with its BOS.
        bos: how many ids of a part that is.
        again: how many first tokens of each part but the first are read again.
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
    """Whom (second axis) each token sees -> (L, L) of bool."""
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
    """Whom (last axis) each token sees, as the decoder's attention wants it -> (B, 1, L, L)."""
    seen = seen_BLL[:, None]
    if decoder.config._attn_implementation != "eager":
        return seen
    # The plain implementation adds its mask to the scores.
    lowest = torch.finfo(decoder.dtype).min
    return torch.zeros_like(seen, dtype=decoder.dtype).masked_fill(~seen, lowest)


def windowed(
    seen_BLL: Tensor, near: Callable[[int], Tensor], decoder: Any
) -> Tensor | dict[str, Tensor]:
    """:func:`as_mask` for all layers; where a decoder has a sliding window, one for each kind.

    Args:
        near: whom each token sees through a window of so many tokens, as ``seen_BLL``.
    """
    full = as_mask(seen_BLL, decoder)
    window = getattr(decoder.config, "sliding_window", None)
    kinds = getattr(decoder.config, "layer_types", None)
    if window is None or (kinds and _SLIDING not in kinds):
        return full
    cut = as_mask(near(window), decoder)
    # Mistral has one kind of layers and does not name it.
    return {"full_attention": full, _SLIDING: cut} if kinds else cut
