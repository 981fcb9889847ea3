"""Batch of prompts that begin with different KV state, and go on together.

Shapes: B rows, Q tokens of a pass, T cached tokens of the longest row, S positions with logits,
V vocabulary, K key/value heads, C capacity, E head dimension.

The state of every row keeps its own positions: keys are not rotated, keys and values are copied
once. Rows are padded on the left, also within a pass, so that all rows end at the same column; the
mask hides the padding. Tokens of an image may share positions (M-RoPE): the tokens after a state
begin at the position where it ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from gritlm.lm.attention.block_mask import windowed
from gritlm.lm.generator import require_block
from gritlm.lm.kv.block import KVBlock
from gritlm.lm.kv.cache import (
    PreallocatedLayer,
    position_offset,
    set_position_offset,
    shorten,
)
from gritlm.lm.unified import UnifiedLM


class RowBatch:
    """Rows of one cache, each of which begins with its own KV state.

    Args:
        lm: the model.
        states: state of each row, at the positions from 0: a KV block, a cache of a single row, or
            None for a row without one.
        room: number of tokens that will be added to each row.

    Attributes:
        lengths: number of tokens of each state.
        tokens: number of tokens of each row.
        cache: key/value state of all rows.

    Raises:
        CacheMismatchError: for a KV block of another model.
    """

    def __init__(
        self, lm: UnifiedLM, states: Sequence[KVBlock | Cache | None], *, room: int
    ) -> None:
        self._lm = lm
        self.lengths = [_tokens_of(state) for state in states]
        self._offsets = [_offset_of(state) for state in states]
        self.tokens = list(self.lengths)
        longest = max(self.lengths)
        self._layers = _filled(lm, states, longest, longest + room)
        self.cache = Cache(layers=list(self._layers))
        # Position of the token in each column; negative in the padding.
        length_B1 = torch.tensor(self.lengths, device=lm.device)[:, None]
        self._position_BT = torch.arange(longest, device=lm.device) - longest + length_B1

    def prefill(self, ids: Sequence[int], *, keep: int = 1) -> Tensor:
        """Add the same tokens to every row; return the logits (B, S, V) of the last positions.

        Args:
            ids: token ids (Q,).
            keep: number of last positions with logits.
        """
        return self.prefill_rows([ids] * len(self.tokens), keep=keep)

    @torch.inference_mode()
    def prefill_rows(self, ids: Sequence[Sequence[int]], *, keep: int = 1) -> Tensor:
        """Add tokens to the rows; return the logits (B, S, V) of the last positions.

        Args:
            ids: token ids of each row; shorter ones are padded on the left.
            keep: number of last positions with logits; those of padding are undefined.
        """
        size = max(map(len, ids))
        device = self._lm.device
        held_B1 = torch.tensor(self.tokens, device=device)[:, None]
        padding_B1 = torch.tensor([size - len(each) for each in ids], device=device)[:, None]
        offset_B1 = torch.tensor(self._offsets, device=device)[:, None]
        place_Q = torch.arange(size, device=device)
        position_BQ = (held_B1 + place_Q - padding_B1).masked_fill(place_Q < padding_B1, -1)
        logits_BSV = self._lm.causal_for(position_BQ.numel())(
            torch.tensor([[0] * (size - len(each)) + list(each) for each in ids], device=device),
            attention_mask=self._masks(position_BQ),
            position_ids=(position_BQ + offset_B1).clamp(min=0),
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=keep,
        ).logits
        self._position_BT = torch.cat((self._position_BT, position_BQ), dim=1)
        self.tokens = [held + len(each) for held, each in zip(self.tokens, ids, strict=True)]
        return logits_BSV

    @torch.inference_mode()
    def drop(self, tokens: Sequence[int]) -> None:
        """Remove the last tokens of each row, all of which were added by the last pass.

        Args:
            tokens: number of tokens to remove from each row.
        """
        if not any(tokens):
            return
        for row, count in enumerate(tokens):
            if count:
                self._position_BT[row, -count:] = -1
        self.tokens = [held - count for held, count in zip(self.tokens, tokens, strict=True)]
        column_T = (self._position_BT >= 0).any(dim=0).nonzero()[:, 0]
        end = int(column_T[-1]) + 1 if len(column_T) else 0
        shorten(self.cache, self._position_BT.shape[1] - end)
        self._position_BT = self._position_BT[:, :end]

    def keep(self, rows: int) -> None:
        """Keep only the first rows: tokens are no longer added to the others."""
        self.lengths = self.lengths[:rows]
        self.tokens = self.tokens[:rows]
        self._offsets = self._offsets[:rows]
        self._position_BT = self._position_BT[:rows]
        for layer in self._layers:
            layer.keys = layer.keys[:rows]
            layer.values = layer.values[:rows]

    def select(self, rows: Sequence[int], *, room: int) -> RowBatch:
        """Return a new batch with copies of some rows, and room for more tokens."""
        return RowBatch(self._lm, [self.row(row, room=0) for row in rows], room=room)

    def row(self, index: int, *, room: int) -> Cache:
        """Return the cache of one row, with room for more tokens.

        The cache shares the memory of the batch, where the model decodes in caches of that kind and
        no padding is inside of the row.

        Args:
            index: index of the row.
            room: number of tokens that can be added.
        """
        column_T = (self._position_BT[index] >= 0).nonzero()[:, 0]
        tokens = self.tokens[index]
        start = self._position_BT.shape[1] - tokens
        if self._lm.compiled or (tokens and int(column_T[0]) != start):
            cache = self._copied(index, column_T, room)
        else:
            cache = Cache(layers=[_row(layer, index, start) for layer in self._layers])
        if self._offsets[index]:
            set_position_offset(cache, self._offsets[index])
        return cache

    def _copied(self, index: int, column_T: Tensor, room: int) -> Cache:
        """Return a copy of some columns of one row in a cache of its own."""
        cache = self._lm.new_cache(len(column_T) + room)
        for number, layer in enumerate(self._layers):
            column = column_T.to(layer.keys.device)
            keys = layer.keys[index : index + 1, :, column]
            cache.update(keys, layer.values[index : index + 1, :, column], number)
        return cache

    def _masks(self, position_BQ: Tensor) -> Tensor | dict[str, Tensor]:
        """Return the attention masks of tokens at these positions over their rows."""
        column_BT = torch.cat((self._position_BT, position_BQ), dim=1)
        ahead_BQT = position_BQ[:, :, None] - column_BT[:, None]
        seen_BQT = (ahead_BQT >= 0) & (column_BT >= 0)[:, None]
        # Padding attends to itself: a row of scores in which all are hidden has no softmax.
        column_T = torch.arange(column_BT.shape[1], device=column_BT.device)
        own_QT = column_T == column_T[-position_BQ.shape[1] :, None]
        seen_BQT |= (position_BQ < 0)[:, :, None] & own_QT
        return windowed(seen_BQT, lambda size: seen_BQT & (ahead_BQT < size), self._lm.decoder)


def _tokens_of(state: KVBlock | Cache | None) -> int:
    if state is None:
        return 0
    return state.tokens if isinstance(state, KVBlock) else int(state.get_seq_length())


def _offset_of(state: KVBlock | Cache | None) -> int:
    """Return the position after a state minus the number of its tokens."""
    if isinstance(state, KVBlock):
        return 0 if state.end is None else state.end - state.tokens
    return 0 if state is None else position_offset(state)


def _layers_of(
    lm: UnifiedLM, state: KVBlock | Cache | None, tokens: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the keys and values (K, T, E) of each layer of a state with tokens."""
    if isinstance(state, KVBlock):
        require_block(lm, state)
        yield from state.layers()
    elif state is not None:
        layers: list[Any] = list(state.layers)
        for layer in layers:
            yield layer.keys[0, :, :tokens], layer.values[0, :, :tokens]


@torch.no_grad()
def _filled(
    lm: UnifiedLM, states: Sequence[KVBlock | Cache | None], longest: int, capacity: int
) -> list[PreallocatedLayer]:
    """Return the layers of a cache with the states, padded on the left with zeros."""
    layers = [PreallocatedLayer(capacity) for _ in range(lm.config.num_hidden_layers)]
    devices = lm.layer_devices()
    sizes = [_tokens_of(state) for state in states]
    for index, (state, tokens) in enumerate(zip(states, sizes, strict=True)):
        if not tokens:
            continue
        found = _layers_of(lm, state, tokens)
        for layer, device, (keys_KTE, values_KTE) in zip(layers, devices, found, strict=True):
            if not layer.is_initialized:
                _allocate(layer, keys_KTE, rows=len(states), dtype=lm.dtype, device=device)
            start = longest - tokens
            layer.keys[index, :, start:longest] = keys_KTE
            layer.values[index, :, start:longest] = values_KTE
            layer.length = longest
    for layer in layers:
        if layer.is_initialized:
            for row, tokens in enumerate(sizes):
                layer.keys[row, :, : longest - tokens] = 0  # hidden, yet NaN would spread
                layer.values[row, :, : longest - tokens] = 0
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
