"""Attention of the lean pass: over cached keys, within texts, side by side, and over KV slots.

Shapes: B rows, Q queries, S queries that are computed, T keys, W columns of scores, H heads, K
key/value heads, G query heads that share keys, E head dimension; N texts of up to L tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gritlm.lm.attention.ragged import RaggedRun, attend_runs
from gritlm.lm.lean.tiles import SideBySide, Tile

# Attention of a layer with a window: from scaled queries (B, Q, H, E), keys and values (B, Q, K, E)
# to the mixed values (B, S, H * E) of all queries, or of the last ones.
Attention = Callable[[int, int | None, Tensor, Tensor, Tensor], Tensor]


class TiledAttention:
    """Attention by tiles, over the keys of the pass and those of a cache.

    Args:
        cache: cache to which keys and values are added in every layer; None for no cache.
        tiles: tiles of the pass for each layer and its window.
        pause: checkpoint callback, called in every layer.
    """

    def __init__(
        self,
        cache: Any,
        tiles: Callable[[int, int | None], Sequence[Tile]],
        pause: Callable[[], None] | None = None,
    ) -> None:
        self._cache = cache
        self._tiles = tiles
        self._pause = pause

    def __call__(
        self,
        layer: int,
        window: int | None,
        query_BQHE: Tensor,
        key_BQKE: Tensor,
        value_BQKE: Tensor,
    ) -> Tensor:
        if self._pause is not None:
            self._pause()
        key_BKTE = key_BQKE.transpose(1, 2)
        value_BKTE = value_BQKE.transpose(1, 2)
        if self._cache is not None:
            key_BKTE, value_BKTE = self._cache.update(key_BKTE, value_BKTE, layer)
        tiles = self._tiles(layer, window)
        mixed = [_attend(query_BQHE, key_BKTE, value_BKTE, tile) for tile in tiles]
        return mixed[0] if len(mixed) == 1 else torch.cat(mixed, dim=1)


def _attend(query_BQHE: Tensor, key_BKTE: Tensor, value_BKTE: Tensor, tile: Tile) -> Tensor:
    """Return the attention (B, Q, H * E) of the queries of a tile.

    Heads that share keys are a single matrix product. The keys are copied: torch copies those of a
    cache with room left anyway, in a slower way.
    """
    query_BHQE = query_BQHE[:, tile.queries].transpose(1, 2)
    key_BKTE = key_BKTE[:, :, tile.keys]
    value_BKTE = value_BKTE[:, :, tile.keys]
    if tile.texts is not None:
        query_NHLE = _apart(query_BHQE, tile.texts)
        key_NKLE = _apart(key_BKTE, tile.texts)
        value_NKLE = _apart(value_BKTE, tile.texts)
        return _together(_mixed(query_NHLE, key_NKLE, value_NKLE, tile), tile.texts)
    return _mixed(query_BHQE, key_BKTE, value_BKTE, tile)


def _apart(x_1HTE: Tensor, texts: SideBySide) -> Tensor:
    """Return the heads of concatenated texts as one row a text (N, H, L, E)."""
    return x_1HTE[0].transpose(0, 1)[texts.token_NL].transpose(1, 2)


def _together(x_NLD: Tensor, texts: SideBySide) -> Tensor:
    """Return the rows of several texts concatenated (1, T, D), without padding."""
    return x_NLD.flatten(0, 1).index_select(0, texts.place_T)[None]


def _mixed(query_BHQE: Tensor, key_BKTE: Tensor, value_BKTE: Tensor, tile: Tile) -> Tensor:
    """Return the attention (B, Q, H * E) of queries over the keys of a tile."""
    rows, heads, size, width = query_BHQE.shape
    kinds, keys = key_BKTE.shape[1:3]
    grouped = query_BHQE.reshape(rows, kinds, -1, width)
    score = grouped @ _padded(key_BKTE, tile.width).transpose(-1, -2)
    if tile.hidden:
        score_BKGQW = score.view(rows, kinds, -1, size, tile.width)
        for hidden in tile.hidden:
            score_BKGQW[..., hidden.columns].add_(hidden.added)
    # Without conversion: softmax sums in float32 internally.
    weight = score.softmax(dim=-1)[..., :keys]
    mixed = (weight @ value_BKTE).view(rows, heads, size, width)
    return mixed.transpose(1, 2).reshape(rows, size, heads * width)


def _padded(key_BKTE: Tensor, width: int) -> Tensor:
    """Return contiguous keys with zeros up to a number of keys."""
    rows, kinds, keys, size = key_BKTE.shape
    if keys == width:
        return key_BKTE.contiguous()
    padded = key_BKTE.new_empty(rows, kinds, width, size)
    padded[:, :, :keys] = key_BKTE
    padded[:, :, keys:] = 0
    return padded


class SideBySideAttention:
    """Attention of several texts in one pass without padding, each within its own keys.

    Args:
        texts: attention of each text.
        sizes: number of tokens of each text in the pass.
    """

    def __init__(self, texts: Sequence[Attention], sizes: list[int]) -> None:
        self._texts = texts
        self._sizes = sizes

    def __call__(
        self,
        layer: int,
        window: int | None,
        query_1QHE: Tensor,
        key_1QKE: Tensor,
        value_1QKE: Tensor,
    ) -> Tensor:
        heads = (each.split(self._sizes, dim=1) for each in (query_1QHE, key_1QKE, value_1QKE))
        parts = zip(self._texts, *heads, strict=True)
        return torch.cat([attend(layer, window, *part) for attend, *part in parts], dim=1)


class SlotAttention:
    """Attention of a token per sequence over KV slots, which differ in length.

    Args:
        cache: cache over all slots, which writes the token of each sequence.
        runs: groups of the sequences.
    """

    def __init__(self, cache: Any, runs: Sequence[RaggedRun]) -> None:
        self._cache = cache
        self._runs = runs

    def __call__(
        self,
        layer: int,
        window: int | None,
        query_B1HE: Tensor,
        key_B1KE: Tensor,
        value_B1KE: Tensor,
    ) -> Tensor:
        keys, values = self._cache.update(
            key_B1KE.transpose(1, 2), value_B1KE.transpose(1, 2), layer
        )
        mixed_BH1E = attend_runs(query_B1HE.transpose(1, 2), keys, values, self._runs, window)
        return mixed_BH1E.flatten(1)[:, None]
