"""Recomputation of some cached tokens over the whole prompt before them.

Shapes: T tokens of all blocks, Q recomputed and prefilled tokens, K key/value heads, E head
dimension, V vocabulary.

Blocks are computed without attention to each other. Recomputing some of their tokens, causally over
the whole prompt, repairs a part of that for a part of the cost. The tokens are the first of each
block, where attention sinks are (EPIC, arXiv 2410.15332), the ones whose values change most in the
second layer (CacheBlend, arXiv 2405.16444), or the ones with most attention from the question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from gritlm.errors import InputError, choice
from gritlm.lm.attention import views
from gritlm.lm.attention.block_mask import windowed
from gritlm.lm.kv.block import KVBlock
from gritlm.lm.kv.cache import PatchedLayer, PreallocatedLayer, recorded, recording
from gritlm.lm.unified import UnifiedLM
from gritlm.prompts import READ_AGAIN
from gritlm.rag.cooperative import Checkpoint, read

_LAYER = 1  # its values show how much a token depends on the text before its block


@dataclass(frozen=True)
class Recompute:
    """Choice of the cached tokens that are recomputed.

    Attributes:
        by: ``first`` for the first ``tokens`` of each block but the first, ``value`` for the tokens
            whose values change most, ``question`` for the tokens with most attention from the
            question.
        tokens: number of tokens of each block, for ``first``.
        share: share of the tokens of all blocks, above 0 and at most 1, for ``value`` and
            ``question``.

    Raises:
        InputError: for a value out of range.
    """

    by: Literal["first", "value", "question"] = "first"
    tokens: int = READ_AGAIN
    share: float = 0.15

    def __post_init__(self) -> None:
        choice(self.by, ("first", "value", "question"), name="recompute.by")
        if self.tokens < 1:
            raise InputError(f"recompute.tokens is {self.tokens}; expected 1 or more")
        if not 0 < self.share <= 1:
            raise InputError(f"recompute.share is {self.share}; expected above 0, at most 1")


FIRST = Recompute()


@dataclass(frozen=True)
class Reread:
    """Number of tokens that recomputation reads in addition to the prefilled ones.

    Attributes:
        tokens: number of recomputed tokens.
        selecting: number of tokens read to select them; for ``value`` in the first two layers only.
    """

    tokens: int = 0
    selecting: int = 0


def expected(how: Recompute | None, *, sizes: Sequence[int], tail: int) -> Reread:
    """Return the number of tokens that will be read of blocks of these sizes, before a tail."""
    if how is None or not sizes:
        return Reread()
    if how.by == "first":
        return Reread(len(_first(sizes, how.tokens)))
    held = sum(sizes)
    selecting = held if how.by == "value" else tail
    return Reread(_share(how, held), selecting)


@torch.inference_mode()
def read_behind(
    lm: UnifiedLM,
    cache: Cache,
    blocks: Sequence[KVBlock],
    tail: Sequence[int],
    how: Recompute | None,
    checkpoint: Checkpoint | None = None,
) -> tuple[Tensor, Reread]:
    """Prefill a tail after the blocks of a cache, and recompute some of their tokens.

    Args:
        lm: the model.
        cache: cache that holds ``blocks`` only; it must be preallocated for recomputation.
        blocks: blocks in the cache, in order.
        tail: token ids that follow.
        how: the tokens to recompute; None for no tokens.
        checkpoint: checkpoint callback; None where no other work waits for the model.

    Returns:
        The logits of the next token (V,), and the number of tokens read of the blocks.
    """
    if how is None:
        return read(lm, cache, tail, checkpoint), Reread()
    ids = [i for block in blocks for i in block.token_ids.tolist()]
    sizes = [block.tokens for block in blocks]
    again = chosen(lm, cache, how, ids=ids, sizes=sizes, tail=tail)
    if not again:
        return read(lm, cache, tail, checkpoint), Reread()
    count = expected(how, sizes=sizes, tail=len(tail))
    return read_again(lm, cache, again, ids=ids, tail=tail), count


@torch.inference_mode()
def chosen(
    lm: UnifiedLM,
    cache: Cache,
    how: Recompute,
    *,
    ids: Sequence[int],
    sizes: Sequence[int],
    tail: Sequence[int],
) -> list[int]:
    """Return the positions to recompute, in order.

    Args:
        lm: the model.
        cache: cache that holds the blocks; it is left unchanged.
        how: the tokens to recompute.
        ids: token ids of the blocks (T,).
        sizes: number of tokens of each block; the first one needs no recomputation by ``first``.
        tail: token ids that follow the blocks.
    """
    if how.by == "first":
        return _first(sizes, how.tokens)
    score_T = _changed(lm, cache, ids) if how.by == "value" else _looked_at(lm, cache, tail)
    return sorted(score_T.topk(_share(how, len(ids))).indices.tolist())


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
    patched = Cache(layers=[PatchedLayer(layer, position_Q, end) for layer in _layers(cache)])
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


def _share(how: Recompute, held: int) -> int:
    return min(held, max(1, round(how.share * held)))


def _first(sizes: Sequence[int], tokens: int) -> list[int]:
    positions: list[int] = []
    start = 0
    for number, size in enumerate(sizes):
        if number:
            positions += range(start, start + min(tokens, size))
        start += size
    return positions


def _changed(lm: UnifiedLM, cache: Cache, ids: Sequence[int]) -> Tensor:
    """Return the squared change of second-layer values in a causal pass over all blocks (T,)."""
    view = views.shell(lm.decoder)
    view.layers = nn.ModuleList(list(view.layers)[: _LAYER + 1])
    view.config.num_hidden_layers = _LAYER + 1
    fresh = recording(_LAYER + 1)
    view(torch.tensor([ids], device=lm.device), past_key_values=fresh, use_cache=True)
    new_KTE = recorded(fresh)[_LAYER, 1]
    old_KTE = _layers(cache)[_LAYER].values[0, :, : len(ids)]
    return (new_KTE.float() - old_KTE.float()).square().sum(dim=(0, 2))


def _looked_at(lm: UnifiedLM, cache: Cache, tail: Sequence[int]) -> Tensor:
    """Return the attention from the tail, summed over layers, heads and queries (T,)."""
    view = views.attending(lm.causal, "eager")
    layers = _layers(cache)
    held = layers[0].length
    try:
        found = view(
            torch.tensor([tail], device=lm.device),
            past_key_values=cache,
            use_cache=True,
            output_attentions=True,
            logits_to_keep=1,
        ).attentions
    finally:
        for layer in layers:
            layer.length = held
    return sum(weight_BHQT[0, :, :, :held].float().sum(dim=(0, 1)) for weight_BHQT in found)


def _layers(cache: Cache) -> list[PreallocatedLayer]:
    return [layer for layer in cache.layers if isinstance(layer, PreallocatedLayer)]
