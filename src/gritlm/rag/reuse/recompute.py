"""Tokens of blocks that are read again in the light of all that stands before them.

Shapes: T tokens of the blocks together, R of them read again, Q those and the ids behind, K
key/value heads, E head dimension, V vocabulary, L layers.

Blocks do not know of each other. Reading some of their tokens again, causally over everything,
mends a part of that for a part of the cost. Which ones: the first of each block, where attention
sinks are (EPIC, arXiv 2410.15332); those whose value states change most in the second layer
(CacheBlend, arXiv 2405.16444); or those that the question looks at most.
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

_LAYER = 1  # whose values tell how much a token depends on what stands before its block


@dataclass(frozen=True)
class Recompute:
    """Which tokens of the blocks are read again.

    Attributes:
        by: ``first``: the first ``tokens`` of each block but the first; ``value``: those whose
            values change most; ``question``: those that the question attends to most.
        tokens: of each block, for ``first``.
        share: of all tokens of the blocks, for the other two.

    Raises:
        InputError: for values out of range.
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
    """What was read of the blocks besides the tail.

    Attributes:
        tokens: that were recomputed.
        selecting: that were read to choose them; for ``value`` in the first two layers only.
    """

    tokens: int = 0
    selecting: int = 0


def expected(how: Recompute | None, *, sizes: Sequence[int], tail: int) -> Reread:
    """Return what will be read of blocks with these numbers of tokens, before a tail."""
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
    """Read ``tail`` behind the blocks of a cache -> logits of the next token (V,), and the tokens
    of the blocks that were read.

    Args:
        cache: holds ``blocks`` and nothing more; preallocated, unless ``how`` is None.
        checkpoint: called now and then, for who shares the model's thread.
    """
    if how is None:
        return read(lm, cache, tail, checkpoint), Reread()
    ids = [i for block in blocks for i in block.token_ids.tolist()]
    sizes = [block.tokens for block in blocks]
    again = chosen(lm, cache, how, ids=ids, sizes=sizes, tail=tail)
    if not again:
        return read(lm, cache, tail, checkpoint), Reread()
    made = expected(how, sizes=sizes, tail=len(tail))
    return read_again(lm, cache, again, ids=ids, tail=tail), made


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
    """Positions to read again, in order.

    Args:
        cache: holds the blocks; what is done with it is undone.
        ids: of the blocks, (T,).
        sizes: tokens of each block; the first one sees all that stands before it already.
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
    """Read these positions and the tail in one pass; the cache then holds all of it -> (V,).

    Each token sees all before it: those read again as they are now, the others as they were.
    """
    held = len(ids)
    end = len(ids) + len(tail)
    places_Q = torch.tensor([*positions, *range(held, end)], device=lm.device)
    input_Q = torch.tensor([*(ids[at] for at in positions), *tail], device=lm.device)
    patched = Cache(layers=[PatchedLayer(layer, places_Q, end) for layer in _layers(cache)])
    return lm.causal_for(len(places_Q))(
        input_Q[None],
        attention_mask=_causal_masks(lm, places_Q, end),
        position_ids=places_Q[None],
        past_key_values=patched,
        use_cache=True,
        logits_to_keep=1,
    ).logits[0, -1]


def _causal_masks(lm: UnifiedLM, places_Q: Tensor, end: int) -> Tensor | dict[str, Tensor]:
    """Whom the tokens at these places see, of all up to ``end``."""
    ahead_QT = places_Q[:, None] - torch.arange(end, device=lm.device)[None]
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
    """How far the values of the second layer move when all is read causally -> (T,)."""
    view = views.shell(lm.decoder)
    view.layers = nn.ModuleList(list(view.layers)[: _LAYER + 1])
    view.config.num_hidden_layers = _LAYER + 1
    fresh = recording(_LAYER + 1)
    view(torch.tensor([ids], device=lm.device), past_key_values=fresh, use_cache=True)
    new_KTE = recorded(fresh)[_LAYER, 1]
    old_KTE = _layers(cache)[_LAYER].values[0, :, : len(ids)]
    return (new_KTE.float() - old_KTE.float()).square().sum(dim=(0, 2))


def _looked_at(lm: UnifiedLM, cache: Cache, tail: Sequence[int]) -> Tensor:
    """Attention of the tail to each token of the blocks, over layers, heads and queries -> (T,)."""
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
