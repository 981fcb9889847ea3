"""Caches that transformers models write their keys and values into.

Shapes: B rows, K key/value heads, T tokens, E head dimension.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache, CacheLayerMixin, StaticCache

_GROWTH = 256


class UnboundedLayer(CacheLayerMixin):
    """A layer without a window and without a largest size of its own."""

    is_sliding = False

    def get_max_length(self) -> int:
        return -1

    def get_max_cache_shape(self) -> int:
        """The name that transformers before 5.20 asks for."""
        return -1


class PreallocatedLayer(UnboundedLayer):
    """Keys and values in one buffer with room ahead.

    transformers' own dynamic layer copies everything at each step; here a step writes one token.
    """

    keys: Any
    values: Any

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self.length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        rows, heads, _, size = key_states.shape
        self.keys = key_states.new_empty(rows, heads, self.capacity, size)
        self.values = value_states.new_empty(rows, heads, self.capacity, value_states.shape[-1])
        self.dtype = key_states.dtype
        self.device = key_states.device
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Append (B, K, T, E); returns views of everything held."""
        end = self.length + key_states.shape[2]
        if not self.is_initialized:
            self.capacity = max(self.capacity, end)
            self.lazy_initialization(key_states, value_states)
        elif end > self.capacity:
            self.grow(end)
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def grow(self, needed: int) -> None:
        """Make room for ``needed`` tokens."""
        self.capacity = needed + _GROWTH
        old_keys = self.keys[:, :, : self.length]
        old_values = self.values[:, :, : self.length]
        self.lazy_initialization(old_keys, old_values)
        self.keys[:, :, : self.length] = old_keys
        self.values[:, :, : self.length] = old_values

    def get_seq_length(self) -> int:
        return self.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def reset(self) -> None:
        self.length = 0


class PatchedLayer(UnboundedLayer):
    """One pass over tokens that stand in places of a layer: some in the midst of what it holds.

    Args:
        layer: what is written to; it holds ``end`` tokens when the pass is over.
        place_Q: where each token of the pass belongs.
        end: tokens that are seen, those of the pass included.
    """

    def __init__(self, layer: PreallocatedLayer, place_Q: Tensor, end: int) -> None:
        super().__init__()
        if end > layer.capacity:
            layer.grow(end)
        self.layer = layer
        self.place_Q = place_Q
        self.end = end
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """The layer has its buffers already."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        keys = self.layer.keys
        values = self.layer.values
        keys[:, :, self.place_Q] = key_states
        values[:, :, self.place_Q] = value_states
        self.layer.length = self.end
        return keys[:, :, : self.end], values[:, :, : self.end]

    def get_seq_length(self) -> int:
        return self.end - len(self.place_Q)

    def get_mask_sizes(self, *_: Any) -> tuple[int, int]:
        return self.end, 0


class RecordingLayer(UnboundedLayer):
    """Keeps what one forward pass computed, and adds nothing to it."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys = key_states
        self.values = value_states
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        self.lazy_initialization(key_states, value_states)
        return key_states, value_states

    def get_seq_length(self) -> int:
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0


def preallocated(layers: int, capacity: int) -> Cache:
    """An empty cache with room for ``capacity`` tokens; it grows when that is not enough."""
    return Cache(layers=[PreallocatedLayer(capacity) for _ in range(layers)])


def is_preallocated(cache: Cache) -> bool:
    """Whether it holds keys and values alone, in buffers that can be written to anywhere."""
    return all(isinstance(layer, PreallocatedLayer) for layer in cache.layers)


def fixed(config: PreTrainedConfig, capacity: int) -> Cache:
    """transformers' cache of fixed size, as compiled steps need it.

    Its size is rounded up, so that few sizes, each compiled once, serve all prompts.
    """
    return StaticCache(config=config, max_cache_len=-(-capacity // _GROWTH) * _GROWTH)


def recording(layers: int) -> Cache:
    """A cache that only records a single pass."""
    return Cache(layers=[RecordingLayer() for _ in range(layers)])


def recorded(cache: Cache) -> Tensor:
    """What a pass over one row left behind -> (L, 2, K, T, E).

    Raises:
        ValueError: from torch, when layers differ in heads or size.
    """
    kept: list[Any] = list(cache.layers)
    device = kept[0].keys.device  # layers may lie on several devices, a block lies on one
    layers = [torch.stack((layer.keys[0], layer.values[0])).to(device) for layer in kept]
    return torch.stack(layers)
