"""Key/value caches for transformers models.

Shapes: B rows, K key/value heads, T tokens, E head dimension.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache, CacheLayerMixin, StaticCache

_GROWTH = 256
_OFFSET = "gritlm_position_offset"  # attribute of a cache


class UnboundedLayer(CacheLayerMixin):
    """A cache layer without a sliding window and without a maximum size."""

    is_sliding = False

    def get_max_length(self) -> int:
        return -1

    def get_max_cache_shape(self) -> int:
        """Return the maximum size; transformers before 5.20 uses this name."""
        return -1


class PreallocatedLayer(UnboundedLayer):
    """A cache layer with preallocated buffers.

    The dynamic layer of transformers copies all keys and values at each step; this one writes a
    single token.

    Args:
        capacity: initial room in tokens.
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
        """Append keys and values (B, K, T, E); return views of all keys and values."""
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
        """Enlarge the buffers for at least ``needed`` tokens."""
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
    """A cache layer for a single pass that overwrites some tokens of another layer.

    Args:
        layer: the layer to write to; it has ``end`` tokens after the pass.
        place_Q: index of each of the Q tokens of the pass in the layer.
        end: number of tokens that the pass attends to, with its own.
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
        """Do nothing: the other layer has its buffers already."""

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
    """A cache layer that records the keys and values of a single pass."""

    keys: Any
    values: Any

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        # Copies, where they are parts of larger tensors that need not be kept.
        self.keys = key_states.contiguous()
        self.values = value_states.contiguous()
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        self.lazy_initialization(key_states, value_states)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0


def preallocated(layers: int, capacity: int) -> Cache:
    """Return an empty cache with room for ``capacity`` tokens, which grows if necessary."""
    return Cache(layers=[PreallocatedLayer(capacity) for _ in range(layers)])


def is_preallocated(cache: Cache) -> bool:
    """Return whether a cache consists of preallocated layers, which can be overwritten."""
    return all(isinstance(layer, PreallocatedLayer) for layer in cache.layers)


def position_offset(cache: Cache) -> int:
    """Return the position of the next token minus the number of cached tokens.

    It is 0 unless the tokens of an image share positions, as with M-RoPE.
    """
    return int(getattr(cache, _OFFSET, 0))


def set_position_offset(cache: Cache, offset: int) -> None:
    """Set the offset that :func:`position_offset` returns.

    Args:
        cache: the cache; it changes in place.
        offset: position of the next token minus the number of cached tokens.
    """
    setattr(cache, _OFFSET, offset)


def shorten(cache: Cache, tokens: int) -> None:
    """Remove the last tokens of a cache of preallocated layers.

    Args:
        cache: the cache; it changes in place.
        tokens: number of tokens to remove.
    """
    layers: list[Any] = cache.layers
    for layer in layers:
        layer.length -= tokens


def fixed(config: PreTrainedConfig, capacity: int) -> Cache:
    """Return the static cache of transformers, for compiled steps.

    The size is rounded up, so that few sizes, each compiled once, serve all prompts.

    Args:
        config: configuration of the decoder.
        capacity: minimum room in tokens.
    """
    return StaticCache(config=config, max_cache_len=-(-capacity // _GROWTH) * _GROWTH)


def recording(layers: int) -> Cache:
    """Return a cache that records the keys and values of a single pass."""
    return Cache(layers=[RecordingLayer() for _ in range(layers)])


def recorded(cache: Cache, real_BL: Tensor | None = None) -> Tensor:
    """Return the recorded keys and values (L, 2, K, T, E) of a pass over T tokens.

    Args:
        cache: a cache of :func:`recording`, after the pass.
        real_BL: True for tokens of the padded rows of the pass; None for a pass over a single row.

    Raises:
        RuntimeError: for layers that differ in the number or size of heads (raised by torch).
    """
    kept: list[Any] = list(cache.layers)
    device = kept[0].keys.device  # layers may lie on several devices, a block lies on one
    layers = []
    for layer in kept:
        both = torch.stack((layer.keys, layer.values))
        if real_BL is None:
            layers.append(both[:, 0].to(device))
        else:
            real = both.transpose(2, 3)[:, real_BL.to(both.device)]
            layers.append(real.transpose(1, 2).to(device))
    return torch.stack(layers)
