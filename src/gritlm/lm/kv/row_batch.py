"""Batch of prompts that begin with different KV blocks and go on with the same tokens.

Shapes: B rows, Q tokens of a pass, T cached tokens of the longest row, S positions with logits,
V vocabulary, K key/value heads, C capacity, E head dimension.

Every block keeps its own positions: keys are not rotated, keys and values are copied once. Shorter
rows are padded on the left, so that all rows end at the same column; the mask hides the padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from gritlm.lm.attention.block_mask import windowed
from gritlm.lm.generator import require_block
from gritlm.lm.kv.block import KVBlock
from gritlm.lm.kv.cache import PreallocatedLayer
from gritlm.lm.unified import UnifiedLM


class RowBatch:
    """Rows of one cache, each of which begins with its own KV block.

    Args:
        lm: the model.
        blocks: block of each row, at the positions from 0; None for a row without one.
        room: number of tokens that will be added to each row.

    Attributes:
        lengths: number of tokens of each block.
        cache: key/value state of all rows.

    Raises:
        CacheMismatchError: for a KV block of another model.
    """

    def __init__(self, lm: UnifiedLM, blocks: Sequence[KVBlock | None], *, room: int) -> None:
        self._lm = lm
        self.lengths = [0 if block is None else block.tokens for block in blocks]
        self._longest = max(self.lengths)
        self._layers = _filled(lm, blocks, self._longest, self._longest + room)
        self.cache = Cache(layers=list(self._layers))

    @torch.inference_mode()
    def prefill(self, ids: Sequence[int], *, keep: int = 1) -> Tensor:
        """Add the same tokens to every row; return the logits (B, S, V) of the last positions.

        Args:
            ids: token ids (Q,).
            keep: number of last positions with logits.
        """
        device = self._lm.device
        rows = len(self.lengths)
        length_B1 = torch.tensor(self.lengths, device=device)[:, None]
        held = self._layers[0].length - self._longest
        position_BQ = length_B1 + held + torch.arange(len(ids), device=device)
        return self._lm.causal_for(rows * len(ids))(
            torch.tensor([list(ids)] * rows, device=device),
            attention_mask=self._masks(position_BQ),
            position_ids=position_BQ,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=keep,
        ).logits

    def keep(self, rows: int) -> None:
        """Keep only the first rows: tokens are no longer added to the others."""
        self.lengths = self.lengths[:rows]
        for layer in self._layers:
            layer.keys = layer.keys[:rows]
            layer.values = layer.values[:rows]

    def row(self, index: int, *, room: int) -> Cache:
        """Return the cache of one row, with room for more tokens.

        The cache shares the memory of the batch, where the model decodes in caches of that kind.

        Args:
            index: index of the row.
            room: number of tokens that can be added.
        """
        start = self._longest - self.lengths[index]
        if self._lm.compiled:
            return self._copied(index, start, room)
        return Cache(layers=[_row(layer, index, start) for layer in self._layers])

    def _copied(self, index: int, start: int, room: int) -> Cache:
        """Return a copy of one row in a cache for compiled steps."""
        length = self._layers[0].length
        cache = self._lm.new_cache(length - start + room)
        for number, layer in enumerate(self._layers):
            part = slice(start, length)
            keys = layer.keys[index : index + 1, :, part]
            cache.update(keys, layer.values[index : index + 1, :, part], number)
        return cache

    def _masks(self, position_BQ: Tensor) -> Tensor | dict[str, Tensor]:
        """Return the attention masks of tokens at these positions over their rows."""
        padding_B11 = torch.tensor(
            [self._longest - length for length in self.lengths], device=position_BQ.device
        )[:, None, None]
        end = self._layers[0].length + position_BQ.shape[1]
        column_T = torch.arange(end, device=position_BQ.device)
        ahead_BQT = position_BQ[:, :, None] - (column_T - padding_B11)
        seen_BQT = (ahead_BQT >= 0) & (column_T >= padding_B11)
        return windowed(seen_BQT, lambda size: seen_BQT & (ahead_BQT < size), self._lm.decoder)


def _filled(
    lm: UnifiedLM, blocks: Sequence[KVBlock | None], longest: int, capacity: int
) -> list[PreallocatedLayer]:
    """Return the layers of a cache with the blocks, padded on the left with zeros."""
    layers = [PreallocatedLayer(capacity) for _ in range(lm.config.num_hidden_layers)]
    devices = lm.layer_devices()
    for index, block in enumerate(blocks):
        if block is None or not block.tokens:
            continue
        require_block(lm, block)
        for layer, device, (keys_KTE, values_KTE) in zip(
            layers, devices, block.layers(), strict=True
        ):
            if not layer.is_initialized:
                _allocate(layer, keys_KTE, rows=len(blocks), dtype=lm.dtype, device=device)
            start = longest - block.tokens
            layer.keys[index, :, start:longest] = keys_KTE
            layer.values[index, :, start:longest] = values_KTE
            layer.length = longest
    for layer in layers:
        if layer.is_initialized:
            for row, block in enumerate(blocks):
                held = 0 if block is None else block.tokens
                layer.keys[row, :, : longest - held] = 0  # hidden, yet NaN would spread
                layer.values[row, :, : longest - held] = 0
    return layers


def _allocate(
    layer: PreallocatedLayer,
    keys_KTE: Tensor,
    *,
    rows: int,
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    like = torch.empty(0, dtype=dtype, device=device)
    shape = like.new_empty(rows, keys_KTE.shape[0], 0, keys_KTE.shape[-1])
    layer.lazy_initialization(shape, shape)


def _row(layer: PreallocatedLayer, index: int, start: int) -> PreallocatedLayer:
    row: Any = PreallocatedLayer(layer.capacity - start)
    row.keys = layer.keys[index : index + 1, :, start:]
    row.values = layer.values[index : index + 1, :, start:]
    row.dtype = layer.dtype
    row.device = layer.device
    row.length = layer.length - start
    row.is_initialized = True
    return row
